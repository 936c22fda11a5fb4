/* J diag(w) J^T for many w at once: the loop for one type and kind of processor.
 *
 * Results for one pair of directions (a, b) and all w lie side by side, and so they are computed:
 * the sum over i of J_bi (J_ai w_i), where the product in brackets serves a tile of up to ``WITH``
 * directions b and two vectors of w, as many sums as fit the registers. Each a meets itself and the d / 2
 * directions that follow, around the end: every pair once, and tiles of nearly equal height. Of an even
 * d the last of these serves half of the a. The mirror image is stored along. Where the w fill too
 * little of their vectors, or the results are too many to be copied, they are done one by one
 * (``_gram.h``). The planner's costs know that rule for float64 (``plan/symmetry.py``).
 */

#define NAME PASTE(KIND, _grams)
#define PACKED PASTE(NAME, _packed)
#define TILE PASTE(NAME, _tile)
#define ALL PASTE(NAME, _all)
#define PANEL PASTE(NAME, _panel)
#define COPIED PASTE(NAME, _copied)
#define WITH (ROWS > 2 ? 13 : 6)
#define WIDE (2 * LANES)

/* The w as panels of two vectors of them, the entries for each i side by side. */
TARGET static void PACKED(REAL *to, const char *w, npy_intp m, npy_intp width, npy_intp down,
                          npy_intp right)
{
    for (npy_intp q = 0, across; q < m; q += LANES, to += LANES) {
        across = m - q / WIDE * WIDE > LANES ? WIDE : LANES;
        npy_intp here = m - q < LANES ? m - q : LANES, i = 0;
        for (; right == sizeof(REAL) && i + LANES <= width; i += LANES) {
            VEC x[LANES], y[LANES];
            UNROLL for (int r = 0; r < LANES; r++) {
                x[r] = r < here ? *(const VEC *)(w + (q + r) * down + i * right) : (VEC){0};
            }
            /* Place = (row, column); each time its last bit comes first. */
            UNROLL for (int bit = 1; bit < LANES; bit *= 2) {
                UNROLL for (int k = 0; k < LANES / 2; k++) {
                    y[k] = __builtin_shufflevector(x[2 * k], x[2 * k + 1], EVEN);
                    y[k + LANES / 2] = __builtin_shufflevector(x[2 * k], x[2 * k + 1], ODD);
                }
                UNROLL for (int k = 0; k < LANES; k++) {
                    x[k] = y[k];
                }
            }
            UNROLL for (int k = 0; k < LANES; k++) {
                *(VEC *)(to + (i + k) * across) = x[k];
            }
        }
        for (; i < width; i++) {
            for (int r = 0; r < LANES; r++) {
                to[i * across + r] = r < here ? *(const REAL *)(w + (q + r) * down + i * right) : 0;
            }
        }
        if (q / LANES % 2 || across == LANES) {
            to += (width - 1) * across;
        }
    }
}

/* Directions in a row, the first ones once more behind the last; places from the sample's first. */
typedef struct {
    npy_intp in_j, down, right;
} PASTE(NAME, _direction);

/* Pairs of one direction, J_a at ``own``, and so many others. ``rows`` and ``vectors`` are constants
 * where this is called; the results for (a, a) are at ``out`` + down + right. */
TARGET static inline __attribute__((always_inline)) void
TILE(int rows, int vectors, npy_intp depth, const char *j, const PASTE(NAME, _direction) *own,
     const PASTE(NAME, _direction) *others, const REAL *w, int more, char *out)
{
    VEC sum[WITH][2];
    const REAL *from[WITH], *mine = (const REAL *)(j + own->in_j);
    UNROLL for (int r = 0; r < rows; r++) {
        from[r] = (const REAL *)(j + others[r].in_j);
        UNROLL for (int v = 0; v < vectors; v++) {
            sum[r][v] = (VEC){0};
        }
    }
    for (npy_intp i = 0; i < depth; i++, w += vectors * LANES) {
        VEC weighed[2];
        UNROLL for (int v = 0; v < vectors; v++) {
            weighed[v] = mine[i] * *(const VEC *)(w + v * LANES);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            VEC x = from[r][i] - (VEC){0};
            UNROLL for (int v = 0; v < vectors; v++) {
                sum[r][v] += x * weighed[v];
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        VEC *above = (VEC *)(out + own->down + others[r].right);
        VEC *below = (VEC *)(out + own->right + others[r].down);
        UNROLL for (int v = 0; v < vectors; v++) {
            if (more) {
                sum[r][v] += above[v];
            }
            above[v] = below[v] = sum[r][v];
        }
    }
}

#define CASE(r)                                                                                    \
    case 2 * r + 1:                                                                                \
        TILE(r, 1, depth, j, own, others, w, more, out);                                           \
        break;                                                                                     \
    case 2 * r + 2:                                                                                \
        TILE(r, 2, depth, j, own, others, w, more, out);                                           \
        break;

TARGET static void ALL(int rows, int vectors, npy_intp depth, const char *j,
                       const PASTE(NAME, _direction) *own, const PASTE(NAME, _direction) *others,
                       const REAL *w, int more, char *out)
{
    switch (2 * rows + vectors) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
#if ROWS > 2
        CASE(7)
        CASE(8)
        CASE(9)
        CASE(10)
        CASE(11)
        CASE(12)
        CASE(13)
#endif
    }
}

/* A panel of w for one sample; the results lie as the directions say. */
TARGET static void PANEL(const char *j, npy_intp d, npy_intp width, const PASTE(NAME, _direction) *all,
                         const REAL *panel, int vectors, char *out)
{
    npy_intp blocks = (width + MOST_DEPTH - 1) / MOST_DEPTH;
    npy_intp most = width > 0 ? (width + blocks - 1) / blocks : 1;
    npy_intp pairs = d / 2 + 1, tiles = (pairs + WITH - 1) / WITH;
    for (npy_intp first = 0; first < width || first == 0; first += most) {
        npy_intp depth = width - first < most ? width - first : most;
        for (npy_intp p = 0, high, from = 0; p < tiles; p++, from += high) {
            high = pairs / tiles + (p < pairs % tiles);
            for (npy_intp a = 0; a < d; a++) {
                /* The last pair of an even d is that of the other direction too. */
                int twice = d % 2 == 0 && p == tiles - 1 && a >= d / 2;
                ALL((int)high - twice, vectors, depth, j + first * sizeof(REAL), all + a,
                    all + a + from, panel + first * vectors * LANES, first > 0, out);
            }
        }
    }
}

/* The first results of every vector, or two, where the others fill up. */
TARGET static void COPIED(char *to, const npy_intp *in_out, const REAL *from, npy_intp d, npy_intp across,
                          npy_intp count)
{
    for (npy_intp a = 0; a < d; a++) {
        char *at = to + a * in_out[0];
        for (npy_intp b = 0; b < d; b++, at += in_out[1], from += across) {
            npy_intp q = 0;
            for (; in_out[2] == sizeof(REAL) && q + 4 <= count; q += 4) {
                *(QUAD *)(at + q * sizeof(REAL)) = *(const QUAD *)(from + q);
            }
            for (; q < count; q++) {
                *(REAL *)(at + q * in_out[2]) = from[q];
            }
        }
    }
}

/* (a,i),(m,i)->(a,a,m) */
TARGET static void NAME(char **args, const npy_intp *sizes, const npy_intp *steps, void *data)
{
    const npy_intp n = sizes[0], d = sizes[1], width = sizes[2], m = sizes[3], one = sizeof(REAL);
    const npy_intp *in_j = steps + 3, *in_w = in_j + 2, *in_out = in_w + 2;
    npy_intp rest = m % LANES, many = rest > LANES / 2 && d <= MOST_FILLED ? m : m - rest;
    npy_intp filled = (many + LANES - 1) / LANES * LANES;
    int there = in_j[1] == one, whole = many == filled && in_out[2] == one;
    npy_intp apart = there ? in_j[0] : width * one;
    size_t packed = width * filled, copied = there ? 0 : (d * width + LANES - 1) / LANES * LANES;
    size_t spread = whole || many == 0 ? 0 : d * d * WIDE;
    char *memory = malloc((packed + copied + spread) * one + 64 + 2 * d * sizeof(PASTE(NAME, _direction)));
    if (memory == NULL) {
        complain(NULL);
        return;
    }
    REAL *w = (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63), *copy = w + packed;
    REAL *found = copy + copied;
    PASTE(NAME, _direction) *all = (void *)(found + spread);
    for (npy_intp k = 0; k < n; k++) {
        const char *j = args[0] + k * steps[0], *v = args[1] + k * steps[1];
        char *out = args[2] + k * steps[2];
        if (many > 0 && (k == 0 || steps[1] != 0)) {
            PACKED(w, v, many, width, in_w[0], in_w[1]);
        }
        for (npy_intp a = 0; !there && (k == 0 || steps[0] != 0) && a < d; a++) {
            PASTE(KIND, _gram_copied)(copy + a * width, j + a * in_j[0], width, in_j[1]);
        }
        for (npy_intp q = 0; q < many; q += WIDE) {
            int vectors = many - q > LANES ? 2 : 1, fits = in_out[2] == one && many - q >= vectors * LANES;
            npy_intp across = vectors * LANES;
            for (npy_intp a = 0; a < 2 * d; a++) {
                all[a].in_j = a % d * apart;
                all[a].down = a % d * (fits ? in_out[0] : d * across * one);
                all[a].right = a % d * (fits ? in_out[1] : across * one);
            }
            char *to = out + q * in_out[2];
            PANEL(there ? j : (char *)copy, d, width, all, w + q * width, vectors,
                  fits ? to : (char *)found);
            if (!fits) {
                COPIED(to, in_out, found, d, across, many - q < across ? many - q : across);
            }
        }
        npy_intp of_one[] = {m - many, d, width};
        npy_intp step[] = {0, in_w[0], in_out[2], in_j[0], in_j[1], in_w[1], in_out[0], in_out[1]};
        char *at[] = {(char *)j, (char *)v + many * in_w[0], out + many * in_out[2]};
        if (many < m) {
            PASTE(KIND, _gram)(at, of_one, step, NULL);
        }
    }
    free(memory);
}

#undef NAME
#undef PACKED
#undef PANEL
#undef COPIED
#undef TILE
#undef ALL
#undef CASE
#undef WITH
#undef WIDE
