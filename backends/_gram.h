/* J diag(w) J^T, or T + it, one sample after another: the loop for one type and kind of processor.
 *
 * The includer defines KIND, REAL, TARGET, LANES (of a vector; EVEN and ODD list them) and ROWS of a
 * tile, which has four columns. Only tiles on and above the diagonal are computed; those below are
 * their mirror images. J's rows are read where they lie if they are whole vectors; otherwise they are
 * copied side by side, filled up with zeros.
 */

#define NAME PASTE(KIND, _gram)
#define VEC PASTE(NAME, _vector)
#define PAIRS PASTE(NAME, _pairs)
#define SAMPLE PASTE(NAME, _sample)
#define COPIED PASTE(NAME, _copied)
#define QUAD PASTE(NAME, _quad)
#define TILE (ROWS * 4)

typedef REAL VEC
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

typedef REAL QUAD __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* (x0 + x1, x2 + x3, ..., y0 + y1, ...): halves what is left to add in two vectors. */
TARGET static inline VEC PAIRS(VEC x, VEC y)
{
    return __builtin_shufflevector(x, y, EVEN) + __builtin_shufflevector(x, y, ODD);
}

TARGET static void SAMPLE(const char *j, npy_intp apart, REAL *weighed, const REAL *w, npy_intp d,
                          npy_intp length, const char *t, const npy_intp *t_step, char *out,
                          npy_intp down, npy_intp right)
{
    for (npy_intp a = 0; a < d; a += ROWS) {
        for (int r = 0; r < ROWS; r++) {
            const REAL *row = (const REAL *)(j + (a + r < d ? a + r : d - 1) * apart);
            for (npy_intp i = 0; i < length; i += LANES) {
                *(VEC *)(weighed + r * length + i) = *(const VEC *)(row + i) * *(const VEC *)(w + i);
            }
        }
        for (npy_intp b = a / 4 * 4; b < d; b += 4) {
            const REAL *column[4];
            for (int c = 0; c < 4; c++) { /* what stands for rows beyond the last is not stored */
                column[c] = (const REAL *)(j + (b + c < d ? b + c : d - 1) * apart);
            }
            VEC sum[TILE] = {{0}};
            for (npy_intp i = 0; i < length; i += LANES) {
                VEC y[4];
                for (int c = 0; c < 4; c++) {
                    y[c] = *(const VEC *)(column[c] + i);
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
            char *above = out + a * down + b * right, *below = out + b * down + a * right;
#if ROWS == 4
            if (a + 4 <= d && b + 4 <= d && right == sizeof(REAL) &&
                (t == NULL || t_step[1] == sizeof(REAL))) {
                QUAD one[4], other[4];
                memcpy(one, part, sizeof one);
                QUAD x = MIX(one[0], one[1], 0, 4, 1, 5), y = MIX(one[0], one[1], 2, 6, 3, 7);
                QUAD u = MIX(one[2], one[3], 0, 4, 1, 5), v = MIX(one[2], one[3], 2, 6, 3, 7);
                other[0] = MIX(x, u, 0, 1, 4, 5);
                other[1] = MIX(x, u, 2, 3, 6, 7);
                other[2] = MIX(y, v, 0, 1, 4, 5);
                other[3] = MIX(y, v, 2, 3, 6, 7);
                if (a == b) {
                    one[1] = MIX(other[1], one[1], 0, 5, 6, 7);
                    one[2] = MIX(other[2], one[2], 0, 1, 6, 7);
                    one[3] = MIX(other[3], one[3], 0, 1, 2, 7);
                }
                for (int r = 0; r < 4; r++) {
                    if (t != NULL) {
                        one[r] += *(const QUAD *)(t + (a + r) * t_step[0] + b * sizeof(REAL));
                    }
                    *(QUAD *)(above + r * down) = one[r];
                }
                for (int r = 0; a < b && r < 4; r++) {
                    if (t != NULL) {
                        other[r] += *(const QUAD *)(t + (b + r) * t_step[0] + a * sizeof(REAL));
                    }
                    *(QUAD *)(below + r * down) = other[r];
                }
                continue;
            }
#endif
            REAL tile[ROWS][4];
            memcpy(tile, part, sizeof tile);
            int bottom = d - a < ROWS ? (int)(d - a) : ROWS, end = d - b < 4 ? (int)(d - b) : 4;
            for (int r = 0; r < bottom; r++) {
                for (int c = a + r > b ? (int)(a + r - b) : 0; c < end; c++) {
                    REAL one = tile[r][c], other = one;
                    if (t != NULL) {
                        one += *(const REAL *)(t + (a + r) * t_step[0] + (b + c) * t_step[1]);
                        other += *(const REAL *)(t + (b + c) * t_step[0] + (a + r) * t_step[1]);
                    }
                    *(REAL *)(above + r * down + c * right) = one;
                    *(REAL *)(below + c * down + r * right) = other;
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
    npy_intp n = sizes[0], d = sizes[1], width = sizes[2], has_t = data != NULL;
    npy_intp length = (width + LANES - 1) / LANES * LANES;
    const npy_intp *in_j = steps + 3 + has_t, *in_w = in_j + 2, *in_t = in_w + 1;
    const npy_intp *in_out = in_t + 2 * has_t;
    /* A large J is copied all the same: in one sweep, with rows that share no set of the cache. */
    npy_intp line = 64 / sizeof(REAL), apart = ((length + line - 1) / line | 1) * line;
    int there = width == length && in_j[1] == sizeof(REAL) && d * width * sizeof(REAL) <= 16384;
    int w_there = width == length && *in_w == sizeof(REAL);
    REAL *memory = calloc((ROWS + 1) * length + (there ? 0 : d * apart) + line, sizeof(REAL));
    if (memory == NULL) {
        complain(NULL);
        return;
    }
    REAL *weighed = (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    REAL *w = weighed + ROWS * length, *packed = w + length;
    for (npy_intp k = 0; k < n && d > 0; k++) {
        const char *j = args[0] + k * steps[0], *v = args[1] + k * steps[1];
        for (npy_intp a = 0; !there && a < d && (k == 0 || steps[0] != 0); a++) {
            COPIED(packed + a * apart, j + a * in_j[0], width, in_j[1]);
        }
        if (!w_there) {
            COPIED(w, v, width, *in_w);
        }
        SAMPLE(there ? j : (char *)packed, there ? in_j[0] : (npy_intp)(apart * sizeof(REAL)), weighed,
               w_there ? (const REAL *)v : w, d, length, has_t ? args[2] + k * steps[2] : NULL, in_t,
               args[2 + has_t] + k * steps[2 + has_t], in_out[0], in_out[1]);
    }
    free(memory);
}

#undef VEC
#undef PAIRS
#undef SAMPLE
#undef COPIED
#undef QUAD
#undef TILE
#undef NAME
