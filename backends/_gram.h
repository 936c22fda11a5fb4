/* J diag(w) J^T, one sample after another: the loop for one type and one kind of processor.
 *
 * The includer defines KIND, REAL, TARGET, LANES (of a vector; EVEN and ODD list them) and ROWS of
 * a tile, which has four columns. J's rows are packed side by side with zeros up to whole vectors
 * and tiles, so that neither strides nor lengths matter further in. Only tiles on and above the
 * diagonal are computed; those below are their mirror images.
 */

#define NAME PASTE(KIND, _gram)
#define VEC PASTE(NAME, _vector)
#define PAIRS PASTE(NAME, _pairs)
#define SAMPLE PASTE(NAME, _sample)
#define COPIED PASTE(NAME, _copied)
#define TILE (ROWS * 4)

typedef REAL VEC
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* (x0 + x1, x2 + x3, ..., y0 + y1, ...): halves what is left to add in two vectors. */
TARGET static inline VEC PAIRS(VEC x, VEC y)
{
    return __builtin_shufflevector(x, y, EVEN) + __builtin_shufflevector(x, y, ODD);
}

TARGET static void SAMPLE(const REAL *packed, REAL *weighed, const REAL *w, npy_intp d,
                          npy_intp length, char *out, npy_intp down, npy_intp right)
{
    for (npy_intp a = 0; a < d; a += ROWS) {
        for (int r = 0; r < ROWS; r++) {
            for (npy_intp i = 0; i < length; i++) {
                weighed[r * length + i] = packed[(a + r) * length + i] * w[i];
            }
        }
        for (npy_intp b = a / 4 * 4; b < d; b += 4) {
            VEC sum[TILE] = {{0}};
            for (npy_intp i = 0; i < length; i += LANES) {
                VEC y[4];
                for (int c = 0; c < 4; c++) {
                    y[c] = *(const VEC *)(packed + (b + c) * length + i);
                }
                for (int r = 0; r < ROWS; r++) {
                    VEC x = *(const VEC *)(weighed + r * length + i);
                    for (int c = 0; c < 4; c++) {
                        sum[4 * r + c] += x * y[c];
                    }
                }
            }
            VEC part[TILE];
            memcpy(part, sum, sizeof part);
            for (int lanes = LANES, left = TILE / 2; lanes > 1; lanes /= 2, left /= 2) {
                for (int k = 0; k < left; k++) {
                    part[k] = PAIRS(part[2 * k], part[2 * k + 1]);
                }
            }
            REAL tile[ROWS][4];
            memcpy(tile, part, sizeof tile);
            char *above = out + a * down + b * right, *below = out + b * down + a * right;
            if (a + ROWS <= b && b + 4 <= d && right == sizeof(REAL)) {
                for (int r = 0; r < ROWS; r++) {
                    memcpy(above + r * down, tile[r], sizeof tile[r]);
                }
                for (int c = 0; c < 4; c++) {
                    for (int r = 0; r < ROWS; r++) {
                        *(REAL *)(below + c * down + r * sizeof(REAL)) = tile[r][c];
                    }
                }
                continue;
            }
            int bottom = d - a < ROWS ? (int)(d - a) : ROWS, end = d - b < 4 ? (int)(d - b) : 4;
            for (int r = 0; r < bottom; r++) {
                for (int c = a + r > b ? (int)(a + r - b) : 0; c < end; c++) {
                    *(REAL *)(above + r * down + c * right) = tile[r][c];
                    *(REAL *)(below + c * down + r * right) = tile[r][c];
                }
            }
        }
    }
}

static void COPIED(REAL *to, const char *from, npy_intp count, npy_intp step)
{
    if (step == sizeof(REAL)) {
        memcpy(to, from, count * sizeof(REAL));
        return;
    }
    for (npy_intp i = 0; i < count; i++) {
        to[i] = *(const REAL *)(from + i * step);
    }
}

TARGET static void NAME(char **args, const npy_intp *sizes, const npy_intp *steps, void *data)
{
    npy_intp n = sizes[0], d = sizes[1], width = sizes[2];
    npy_intp length = (width + LANES - 1) / LANES * LANES, rows = (d + 3) / 4 * 4;
    REAL *memory = calloc((rows + ROWS + 1) * length + 64 / sizeof(REAL), sizeof(REAL));
    if (memory == NULL) {
        complain(NULL);
        return;
    }
    REAL *packed = (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    REAL *weighed = packed + rows * length, *w = weighed + ROWS * length;
    for (npy_intp k = 0; k < n; k++) {
        const char *j = args[0] + k * steps[0], *v = args[1] + k * steps[1];
        for (npy_intp a = 0; a < d && (k == 0 || steps[0] != 0); a++) {
            COPIED(packed + a * length, j + a * steps[3], width, steps[4]);
        }
        COPIED(w, v, width, steps[5]);
        SAMPLE(packed, weighed, w, d, length, args[2] + k * steps[2], steps[6], steps[7]);
    }
    free(memory);
}

#undef VEC
#undef PAIRS
#undef SAMPLE
#undef COPIED
#undef TILE
#undef NAME
