/* C = A B, or (A . S) B, with packed B: the loop for one type and one kind of processor.
 *
 * The includer defines KIND, REAL, TARGET, LANES (of a vector) and ROWS. A tile has twice as many rows
 * and three vectors of columns: as many sums as fit the registers beside a row of B. B comes packed
 * (numpy_gemm.py): the columns of a tile lie side by side, filled up with zeros to whole vectors. A
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
TILE(int rows, int vectors, npy_intp k, REAL *const *a, const REAL *b, char *const *c, npy_intp at)
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
    UNROLL for (int i = 0; i < rows; i++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            *(VEC *)(c[i] + at + v * sizeof(VEC)) = sum[i][v];
        }
    }
}

#define CASE(r, v)                                                                                \
    case 4 * r + v:                                                                               \
        TILE(r, v, k, a, b, c, at);                                                               \
        return r;

/* One tile of at most so many rows; how many it had. */
TARGET static int TILE_ROWS(npy_intp rows, int vectors, npy_intp k, REAL *const *a, const REAL *b,
                            char *const *c, npy_intp at)
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

/* At most MOST_ROWS rows, found by their addresses, times k rows of some of B's columns. */
TARGET static void BLOCK(npy_intp rows, npy_intp k, npy_intp columns, REAL *const *a, const REAL *b,
                         npy_intp depth, npy_intp first, char *const *c, npy_intp right)
{
    for (npy_intp j = 0; j < columns; j += COLUMNS, b += depth * COLUMNS) {
        npy_intp width = columns - j < COLUMNS ? columns - j : COLUMNS;
        int vectors = (int)((width + LANES - 1) / LANES);
        int apart = first > 0 || width % LANES || right != sizeof(REAL);
        for (npy_intp i = 0; i < rows;) {
            if (!apart) {
                i += TILE_ROWS(rows - i, vectors, k, a + i, b + first * vectors * LANES, c + i,
                               j * sizeof(REAL));
                continue;
            }
            REAL tile[TALL][COLUMNS];
            char *place[TALL];
            for (int r = 0; r < TALL; r++) {
                place[r] = (char *)tile[r];
            }
            int done = TILE_ROWS(rows - i, vectors, k, a + i, b + first * vectors * LANES, place, 0);
            for (int r = 0; r < done; r++) {
                for (npy_intp q = 0; q < width; q++) {
                    REAL *to = (REAL *)(c[i + r] + (j + q) * right);
                    *to = first > 0 ? *to + tile[r][q] : tile[r][q];
                }
            }
            i += done;
        }
    }
}

/* (m,k),(q)->(m,p), or with ``data`` (m,k),(m,k),(q)->(m,p), where q entries hold (k, p). */
static void NAME(char **args, const npy_intp *sizes, const npy_intp *steps, void *data)
{
    int three = data != NULL;
    npy_intp outer = sizes[0], m = sizes[1], depth = sizes[2], q = sizes[3], p = sizes[4];
    const npy_intp *inside = steps + 3 + three;
    const npy_intp *down_s = inside + 2, *down_b = inside + 2 + 2 * three, *down_c = down_b + 1;
    npy_intp a_step = inside[1], rows = outer * m;
    int weigh = three || a_step != sizeof(REAL);
    if (q != depth * ((p + LANES - 1) / LANES * LANES) || *down_b != sizeof(REAL) ||
        (outer > 1 && steps[1 + three] != 0)) {
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
            char *from_outer = args[0] + first * a_step, *from = from_outer;
            char *s_outer = three ? args[1] + first * down_s[1] : NULL, *s = s_outer;
            char *to_outer = args[2 + three] + j * down_c[1], *to = to_outer;
            const REAL *b = (const REAL *)args[1 + three] + j * depth;
            for (npy_intp i = 0; i < rows; i += MOST_ROWS) {
                npy_intp here = rows - i < MOST_ROWS ? rows - i : MOST_ROWS;
                REAL *a[MOST_ROWS];
                char *c[MOST_ROWS];
                for (npy_intp t = 0; t < here; t++) {
                    a[t] = (REAL *)from;
                    c[t] = to;
                    if (weigh) {
                        a[t] = start + t * apart;
                        WEIGH(a[t], from, a_step, s, three ? down_s[1] : 0, k);
                    }
                    if (++r < m) {
                        from += inside[0];
                        s += three ? down_s[0] : 0;
                        to += down_c[0];
                    }
                    else {
                        r = 0;
                        from = from_outer += steps[0];
                        s = three ? s_outer += steps[1] : NULL;
                        to = to_outer += steps[2 + three];
                    }
                }
                BLOCK(here, k, columns, a, b, depth, first, c, down_c[1]);
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
