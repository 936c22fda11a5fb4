/* C = T + (A . S) B with packed B, where S and T may be left out: for one type and kind of processor.
 *
 * The includer defines KIND, REAL, TARGET, LANES (of a vector) and ROWS. A tile has twice as many rows
 * and three vectors of columns: as many sums as fit the registers beside a row of B. B comes packed
 * (numpy_kernels.py): the columns of a tile lie side by side, filled up with zeros to whole vectors. A
 * is read where it lies, or weighed by S a few rows at a time, into the cache. Every entry's products
 * are added in their order: results do not depend on how samples are cut into chunks.
 */

#define NAME PASTE(KIND, _matmul)
#define TALL (2 * ROWS)
#define VEC PASTE(NAME, _vector)
#define TILE PASTE(NAME, _tile)
#define TILE_ROWS PASTE(NAME, _tile_rows)
#define WEIGH PASTE(NAME, _weigh)
#define BLOCK PASTE(NAME, _block)
#define COLUMNS (3 * LANES)

typedef REAL VEC
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* A tile of so many rows and vectors; both are constants where this is called. */
TARGET static inline __attribute__((always_inline)) void
TILE(int rows, int vectors, npy_intp k, REAL *const *a, const REAL *b, char *const *t, char *const *c,
     npy_intp at, const REAL *ahead, npy_intp pace)
{
    VEC sum[TALL][3];
    const REAL *from[TALL];
    UNROLL for (int i = 0; i < rows; i++) {
        from[i] = a[i];
        UNROLL for (int v = 0; v < vectors; v++) {
            sum[i][v] = (VEC){0};
        }
    }
    for (npy_intp p = 0; p < k; p++, b += vectors * LANES) {
        VEC y[3];
        __builtin_prefetch(ahead + p * pace, 0, 2);
        UNROLL for (int v = 0; v < vectors; v++) {
            y[v] = *(const VEC *)(b + v * LANES);
        }
        UNROLL for (int i = 0; i < rows; i++) {
            VEC x = from[i][p] - (VEC){0};
            UNROLL for (int v = 0; v < vectors; v++) {
                sum[i][v] += x * y[v];
            }
        }
    }
    if (t != NULL) {
        UNROLL for (int i = 0; i < rows; i++) {
            UNROLL for (int v = 0; v < vectors; v++) {
                *(VEC *)(c[i] + at + v * sizeof(VEC)) =
                    sum[i][v] + *(const VEC *)(t[i] + at + v * sizeof(VEC));
            }
        }
        return;
    }
    UNROLL for (int i = 0; i < rows; i++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            *(VEC *)(c[i] + at + v * sizeof(VEC)) = sum[i][v];
        }
    }
}

#define CASE(r, v)                                                                                \
    case 4 * r + v:                                                                               \
        TILE(r, v, k, a, b, t, c, at, ahead, pace);                                               \
        return r;

/* One tile of at most so many rows; how many it had. */
TARGET static int TILE_ROWS(npy_intp rows, int vectors, npy_intp k, REAL *const *a, const REAL *b,
                            char *const *t, char *const *c, npy_intp at, const REAL *ahead,
                            npy_intp pace)
{
    int r = rows >= TALL ? TALL : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
    switch (4 * r + vectors) {
        CASE(TALL, 3)
        CASE(TALL, 2)
        CASE(TALL, 1)
#if TALL > 4
        CASE(4, 3)
        CASE(4, 2)
        CASE(4, 1)
#endif
        CASE(2, 3)
        CASE(2, 2)
        CASE(2, 1)
        CASE(1, 3)
        CASE(1, 2)
        CASE(1, 1)
    }
    return r;
}

/* A row of A times one of S, or as it is. */
TARGET static void WEIGH(REAL *to, const char *a, npy_intp a_step, const char *s, npy_intp s_step,
                         npy_intp k)
{
    npy_intp p = 0;
    if (s != NULL && a_step == sizeof(REAL) && s_step == sizeof(REAL)) {
        for (; p + LANES <= k; p += LANES) {
            *(VEC *)(to + p) = *(const VEC *)(a + p * a_step) * *(const VEC *)(s + p * s_step);
        }
    }
    for (; p < k; p++) {
        REAL x = *(const REAL *)(a + p * a_step);
        to[p] = s == NULL ? x : x * *(const REAL *)(s + p * s_step);
    }
}

/* At most MOST_ROWS rows, found by their addresses, times k rows of some of B's columns; t: or NULL. */
TARGET static void BLOCK(npy_intp rows, npy_intp k, npy_intp columns, REAL *const *a, const REAL *b,
                         npy_intp depth, npy_intp first, char *const *t, npy_intp t_right,
                         char *const *c, npy_intp right)
{
    for (npy_intp j = 0; j < columns; j += COLUMNS, b += depth * COLUMNS) {
        npy_intp width = columns - j < COLUMNS ? columns - j : COLUMNS;
        int vectors = (int)((width + LANES - 1) / LANES);
        int apart = width % LANES || right != sizeof(REAL) || (t != NULL && t_right != right);
        const REAL *panel = b + first * vectors * LANES;
        /* While a tile is computed, its share of the next columns comes nearer. */
        npy_intp tiles = (rows + TALL - 1) / TALL, pace = (COLUMNS + tiles - 1) / tiles;
        const REAL *ahead = b + depth * COLUMNS + first * COLUMNS;
        pace = j + COLUMNS < columns ? pace : 0;
        for (npy_intp i = 0; i < rows;) {
            if (!apart) {
                i += TILE_ROWS(rows - i, vectors, k, a + i, panel, t == NULL ? NULL : t + i, c + i,
                               j * sizeof(REAL), ahead + i / TALL * k * pace, pace);
                continue;
            }
            REAL tile[TALL][COLUMNS];
            char *place[TALL];
            for (int r = 0; r < TALL; r++) {
                place[r] = (char *)tile[r];
            }
            int done = TILE_ROWS(rows - i, vectors, k, a + i, panel, NULL, place, 0, panel, 0);
            for (int r = 0; r < done; r++) {
                for (npy_intp q = 0; q < width; q++) {
                    REAL sum = tile[r][q];
                    if (t != NULL) {
                        sum += *(const REAL *)(t[i + r] + (j + q) * t_right);
                    }
                    *(REAL *)(c[i + r] + (j + q) * right) = sum;
                }
            }
            i += done;
        }
    }
}

/* A row's place: what lies ``outer`` apart after m rows that lie ``down`` apart. */
typedef struct {
    char *now, *start;
    npy_intp down, outer;
} PASTE(NAME, _row);

static inline void PASTE(NAME, _next)(PASTE(NAME, _row) *row, int turn)
{
    row->now = turn ? (row->start += row->outer) : row->now + row->down;
}

/* (m,k),(q)[,(m,k)][,(m,p)]->(m,p), where q entries hold (k, p); ``data`` says what is given. */
static void NAME(char **args, const npy_intp *sizes, const npy_intp *steps, void *data)
{
    int flags = (int)(intptr_t)data, has_s = flags & WITH_S ? 1 : 0, has_t = flags & WITH_T ? 1 : 0;
    int of_t = 2 + has_s, of_c = of_t + has_t;
    npy_intp outer = sizes[0], m = sizes[1], depth = sizes[2], q = sizes[3], p = sizes[4];
    const npy_intp *in_a = steps + of_c + 1, *in_b = in_a + 2, *in_s = in_b + 1;
    const npy_intp *in_t = in_s + 2 * has_s, *in_c = in_t + 2 * has_t;
    npy_intp rows = outer * m;
    int weigh = has_s || in_a[1] != sizeof(REAL);
    if (q != depth * ((p + LANES - 1) / LANES * LANES) || in_b[0] != sizeof(REAL) ||
        (outer > 1 && steps[1] != 0)) {
        complain("the right matrix is not packed for this product");
        return;
    }
    /* Rows of weighed A lie an odd number of cache lines apart: they share no set of the cache. */
    npy_intp most = depth < MOST_DEPTH ? depth : MOST_DEPTH, line = 64 / sizeof(REAL);
    npy_intp apart = ((most + line - 1) / line | 1) * line;
    REAL *weighed = weigh ? malloc(MOST_ROWS * apart * sizeof(REAL) + 64) : NULL;
    if (weigh && weighed == NULL) {
        complain(NULL);
        return;
    }
    REAL *start = (REAL *)(((uintptr_t)weighed + 63) & ~(uintptr_t)63);
    for (npy_intp j = 0; j < p; j += MOST_PANELS * COLUMNS) {
        npy_intp columns = p - j < MOST_PANELS * COLUMNS ? p - j : MOST_PANELS * COLUMNS;
        for (npy_intp first = 0; first < depth || first == 0; first += MOST_DEPTH) {
            npy_intp k = depth - first < MOST_DEPTH ? depth - first : MOST_DEPTH, r = 0;
            char *at_a = args[0] + first * in_a[1], *at_c = args[of_c] + j * in_c[1];
            char *at_s = has_s ? args[2] + first * in_s[1] : NULL;
            char *at_t = first > 0 ? at_c : has_t ? args[of_t] + j * in_t[1] : NULL;
            const npy_intp *more = first > 0 ? in_c : in_t;
            PASTE(NAME, _row) row_a = {at_a, at_a, in_a[0], steps[0]};
            PASTE(NAME, _row) row_s = {at_s, at_s, has_s ? in_s[0] : 0, has_s ? steps[2] : 0};
            PASTE(NAME, _row) row_t = {at_t, at_t, at_t == NULL ? 0 : more[0],
                                       first > 0 ? steps[of_c] : has_t ? steps[of_t] : 0};
            PASTE(NAME, _row) row_c = {at_c, at_c, in_c[0], steps[of_c]};
            for (npy_intp i = 0; i < rows; i += MOST_ROWS) {
                npy_intp here = rows - i < MOST_ROWS ? rows - i : MOST_ROWS;
                REAL *a[MOST_ROWS];
                char *t[MOST_ROWS], *c[MOST_ROWS];
                for (npy_intp u = 0; u < here; u++) {
                    a[u] = (REAL *)row_a.now;
                    t[u] = row_t.now;
                    c[u] = row_c.now;
                    if (weigh) {
                        a[u] = start + u * apart;
                        WEIGH(a[u], row_a.now, in_a[1], row_s.now, has_s ? in_s[1] : 0, k);
                    }
                    int turn = ++r == m;
                    r = turn ? 0 : r;
                    PASTE(NAME, _next)(&row_a, turn);
                    PASTE(NAME, _next)(&row_s, turn);
                    PASTE(NAME, _next)(&row_t, turn);
                    PASTE(NAME, _next)(&row_c, turn);
                }
                BLOCK(here, k, columns, a, (const REAL *)args[1] + j * depth, depth, first,
                      at_t == NULL ? NULL : t, at_t == NULL ? 0 : more[1], c, in_c[1]);
            }
        }
    }
    free(weighed);
}

#undef VEC
#undef TILE
#undef TILE_ROWS
#undef WEIGH
#undef BLOCK
#undef COLUMNS
#undef CASE
#undef TALL
#undef NAME
