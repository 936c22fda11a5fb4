/* Tiles of C = T + A B with packed B, where T may be left out: for one type and kind of processor.
 *
 * The includer defines KIND, REAL, TARGET, LANES (of a vector) and ROWS. A tile has twice as many rows
 * and three vectors of columns: as many sums as fit the registers beside a row of B. B comes packed
 * (numpy_kernels.py): the columns of a tile lie side by side, filled up with zeros to whole vectors.
 * Rows of A and C are found by their addresses. Every entry's products are added in their order:
 * results do not depend on how samples are cut into chunks.
 */

#define TALL (2 * ROWS)
#define TILE PASTE(KIND, _tile)
#define TILE_ROWS PASTE(KIND, _tile_rows)
#define WEIGH PASTE(KIND, _weigh)
#define BLOCK PASTE(KIND, _block)
#define COLUMNS (3 * LANES)

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
        break;
#define CASES(r) CASE(r, 3) CASE(r, 2) CASE(r, 1)

TARGET static void TILE_ROWS(int rows, int vectors, npy_intp k, REAL *const *a, const REAL *b,
                             char *const *t, char *const *c, npy_intp at, const REAL *ahead,
                             npy_intp pace)
{
    switch (4 * rows + vectors) {
        CASES(1)
        CASES(2)
        CASES(3)
        CASES(4)
#if TALL > 4
        CASES(5)
        CASES(6)
        CASES(7)
        CASES(8)
#endif
    }
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

/* Rows, found by their addresses, times k rows of some of B's columns; t: or NULL. */
TARGET static void BLOCK(npy_intp rows, npy_intp k, npy_intp columns, REAL *const *a, const REAL *b,
                         npy_intp depth, npy_intp first, char *const *t, npy_intp t_right,
                         char *const *c, npy_intp right)
{
    npy_intp tiles = (rows + TALL - 1) / TALL, pace = tiles ? (COLUMNS + tiles - 1) / tiles : 0;
    for (npy_intp j = 0; j < columns; j += COLUMNS, b += depth * COLUMNS) {
        npy_intp width = columns - j < COLUMNS ? columns - j : COLUMNS;
        int vectors = (int)((width + LANES - 1) / LANES), more = j + COLUMNS < columns;
        int apart = width % LANES || right != sizeof(REAL) || (t != NULL && t_right != right);
        const REAL *panel = b + first * vectors * LANES;
        /* While a tile is computed, its share of the next columns comes nearer. */
        const REAL *ahead = b + depth * COLUMNS + first * COLUMNS;
        for (npy_intp i = 0; i < rows; i += TALL) {
            int high = rows - i < TALL ? (int)(rows - i) : TALL;
            if (!apart) {
                TILE_ROWS(high, vectors, k, a + i, panel, t == NULL ? NULL : t + i, c + i,
                          j * sizeof(REAL), ahead + i / TALL * k * pace, more ? pace : 0);
                continue;
            }
            REAL found[TALL][COLUMNS];
            char *place[TALL];
            for (int r = 0; r < TALL; r++) {
                place[r] = (char *)found[r];
            }
            TILE_ROWS(high, vectors, k, a + i, panel, NULL, place, 0, panel, 0);
            for (int r = 0; r < high; r++) {
                for (npy_intp q = 0; q < width; q++) {
                    REAL sum = found[r][q];
                    if (t != NULL) {
                        sum += *(const REAL *)(t[i + r] + (j + q) * t_right);
                    }
                    *(REAL *)(c[i + r] + (j + q) * right) = sum;
                }
            }
        }
    }
}

#undef TILE
#undef TILE_ROWS
#undef CASE
#undef CASES
#undef TALL
