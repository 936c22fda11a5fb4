/* C = T + (A . S) B^T with packed B, for few rows: for one type and kind of processor.
 *
 * A product with the transpose of a matrix that another product reads as it is, so that one copy of it
 * serves both and stays in the cache. Each entry is a dot product of a row of A with a row of B, of
 * which every tile has a piece; several entries' sums are halved together until each is one number.
 */

#define NAME PASTE(KIND, _row_dots)

/* (m,p),(q)[,(m,p)][,(m,k)]->(m,k), where q entries hold (k, p); ``data`` says what is given. */
TARGET static void NAME(char **args, const npy_intp *sizes, const npy_intp *steps, void *data)
{
    int flags = (int)(intptr_t)data, has_s = flags & WITH_S ? 1 : 0, has_t = flags & WITH_T ? 1 : 0;
    int of_t = 2 + has_s, of_c = of_t + has_t;
    npy_intp outer = sizes[0], m = sizes[1], p = sizes[2], q = sizes[3], k = sizes[4];
    const npy_intp *in_a = steps + of_c + 1, *in_b = in_a + 2, *in_s = in_b + 1;
    const npy_intp *in_t = in_s + 2 * has_s, *in_c = in_t + 2 * has_t;
    npy_intp wide = (p + LANES - 1) / LANES * LANES;
    if (q != k * wide || in_b[0] != sizeof(REAL) || (outer > 1 && steps[1] != 0)) {
        complain("the right matrix is not packed for this product");
        return;
    }
    REAL *memory = malloc((wide + LANES) * sizeof(REAL) + 64);
    if (memory == NULL) {
        complain(NULL);
        return;
    }
    REAL *row = (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    for (npy_intp r = 0; r < outer * m; r++) {
        npy_intp o = r / m, i = r % m;
        const char *a = args[0] + o * steps[0] + i * in_a[0];
        const char *s = has_s ? args[2] + o * steps[2] + i * in_s[0] : NULL;
        const char *t = has_t ? args[of_t] + o * steps[of_t] + i * in_t[0] : NULL;
        char *c = args[of_c] + o * steps[of_c] + i * in_c[0];
        WEIGH(row, a, in_a[1], s, has_s ? in_s[1] : 0, p);
        for (npy_intp j = p; j < wide; j++) {
            row[j] = 0;
        }
        for (npy_intp e = 0; e < k; e += LANES) {
            int some = k - e < LANES ? (int)(k - e) : LANES;
            VEC sum[LANES];
            UNROLL for (int u = 0; u < LANES; u++) {
                sum[u] = (VEC){0};
            }
            const REAL *b = (const REAL *)args[1];
            for (npy_intp j = 0, across; j < wide; j += across, b += k * across) {
                across = wide - j < COLUMNS ? wide - j : COLUMNS;
                const REAL *from[LANES];
                UNROLL for (int u = 0; u < LANES; u++) { /* past the last: that one again */
                    from[u] = b + (e + (u < some ? u : some - 1)) * across;
                }
                for (npy_intp v = 0; v < across; v += LANES) {
                    VEC x = *(const VEC *)(row + j + v);
                    UNROLL for (int u = 0; u < LANES; u++) {
                        sum[u] += x * *(const VEC *)(from[u] + v);
                    }
                }
            }
            UNROLL for (int left = LANES / 2; left > 0; left /= 2) {
                UNROLL for (int u = 0; u < left; u++) {
                    sum[u] = PAIRS(sum[2 * u], sum[2 * u + 1]);
                }
            }
            REAL found[LANES];
            *(VEC *)found = sum[0];
            for (int u = 0; u < some; u++) {
                REAL total = found[u];
                if (t != NULL) {
                    total += *(const REAL *)(t + (e + u) * in_t[1]);
                }
                *(REAL *)(c + (e + u) * in_c[1]) = total;
            }
        }
    }
    free(memory);
}

#undef NAME
