/* C = T + (A . S) B with packed B, where S and T may be left out: for one type and kind of processor.
 *
 * A is read where it lies, or weighed by S a few rows at a time, into the cache. ``_tiles.h`` says how
 * a block is computed.
 */

#define NAME PASTE(KIND, _matmul)

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

#undef NAME
