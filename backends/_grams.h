/* J diag(w) J^T for many w at once: the loop for one type and kind of processor.
 *
 * Results for one pair of directions and all w lie side by side, and so they are computed: the products
 * J_a . J_b, some pairs at a time, times the matrix of the w (``_tiles.h``), for a <= b. The others are
 * copies. Where the w fill too little of their vectors they are done one by one (``_gram.h``). The
 * planner's costs know that rule for float64 and vectors of 64 bytes (``plan/symmetry.py``).
 */

#define NAME PASTE(KIND, _grams)
#define PACKED PASTE(NAME, _packed)
#define COPIED PASTE(NAME, _copied)
#define PAIRS_AT_ONCE (6 * ROWS) /* at a time: their products stay in the nearest cache */

/* The w as a right factor, (width, m) in the order of tiles. */
static void PACKED(REAL *to, const char *w, npy_intp m, npy_intp width, npy_intp down, npy_intp right)
{
    for (npy_intp j = 0, across; j < m; j += across, to += width * across) {
        across = m - j < COLUMNS ? (m - j + LANES - 1) / LANES * LANES : COLUMNS;
        for (npy_intp q = 0; q < across; q++) {
            const char *row = w + (j + q) * down;
            for (npy_intp i = 0; i < width; i++, row += right) {
                to[i * across + q] = j + q < m ? *(const REAL *)row : 0;
            }
        }
    }
}

TARGET static void COPIED(char *to, const char *from, npy_intp count, npy_intp step)
{
    npy_intp i = 0;
    if (step == sizeof(REAL)) {
        for (; i + LANES <= count; i += LANES) {
            *(VEC *)(to + i * sizeof(REAL)) = *(const VEC *)(from + i * sizeof(REAL));
        }
    }
    for (; i < count; i++) {
        *(REAL *)(to + i * step) = *(const REAL *)(from + i * step);
    }
}

/* (a,i),(m,i)->(a,a,m) */
TARGET static void NAME(char **args, const npy_intp *sizes, const npy_intp *steps, void *data)
{
    const npy_intp n = sizes[0], d = sizes[1], width = sizes[2], m = sizes[3];
    const npy_intp *in_j = steps + 3, *in_w = in_j + 2, *in_out = in_w + 2;
    npy_intp filled = (m + LANES - 1) / LANES * LANES;
    if (m < filled && (m < LANES || 4 * m < 3 * filled)) {
        npy_intp of_one[] = {m, d, width};
        for (npy_intp k = 0; k < n; k++) {
            char *at[] = {args[0] + k * steps[0], args[1] + k * steps[1], args[2] + k * steps[2]};
            npy_intp step[] = {0,        in_w[0], in_out[2], in_j[0],  in_j[1],
                               in_w[1], in_out[0], in_out[1]};
            PASTE(KIND, _gram)(at, of_one, step, NULL);
        }
        return;
    }
    npy_intp most = width < MOST_DEPTH ? width : MOST_DEPTH, line = 64 / sizeof(REAL);
    npy_intp apart = ((most + line - 1) / line | 1) * line; /* no rows share a set of the cache */
    npy_intp packed = width * filled;
    REAL *memory = malloc((PAIRS_AT_ONCE * apart + packed + line) * sizeof(REAL));
    if (memory == NULL) {
        complain(NULL);
        return;
    }
    REAL *products = (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    REAL *w = products + PAIRS_AT_ONCE * apart, *rows[PAIRS_AT_ONCE];
    for (npy_intp r = 0; r < PAIRS_AT_ONCE; r++) {
        rows[r] = products + r * apart;
    }
    for (npy_intp k = 0; k < n; k++) {
        const char *j = args[0] + k * steps[0];
        char *out = args[2] + k * steps[2], *above[PAIRS_AT_ONCE], *below[PAIRS_AT_ONCE];
        const char *left[PAIRS_AT_ONCE], *right[PAIRS_AT_ONCE];
        PACKED(w, args[1] + k * steps[1], m, width, in_w[0], in_w[1]);
        for (npy_intp a = 0, b = 0, here; a < d;) {
            for (here = 0; here < PAIRS_AT_ONCE && a < d; here++) {
                left[here] = j + a * in_j[0];
                right[here] = j + b * in_j[0];
                above[here] = out + a * in_out[0] + b * in_out[1];
                below[here] = out + b * in_out[0] + a * in_out[1];
                a += ++b == d;
                b = b == d ? a : b;
            }
            for (npy_intp first = 0; first < width || first == 0; first += MOST_DEPTH) {
                npy_intp depth = width - first < MOST_DEPTH ? width - first : MOST_DEPTH;
                npy_intp at = first * in_j[1];
                for (npy_intp r = 0; r < here; r++) {
                    WEIGH(rows[r], left[r] + at, in_j[1], right[r] + at, in_j[1], depth);
                }
                BLOCK(here, depth, m, rows, w, width, first, first ? above : NULL, in_out[2], above,
                      in_out[2]);
            }
            for (npy_intp r = 0; r < here; r++) {
                COPIED(below[r], above[r], m, in_out[2]);
            }
        }
    }
    free(memory);
}

#undef NAME
#undef PACKED
#undef COPIED
#undef PAIRS_AT_ONCE
