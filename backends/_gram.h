/* J diag(w) J^T, or T + it, one sample after another: the loop for one type and kind of processor.
 *
 * The includer defines KIND, REAL, TARGET, LANES (of a vector; EVEN and ODD list them) and SIDE: a
 * tile has at most so many rows and columns, as many sums as fit the registers. The directions are cut
 * into blocks of nearly equal size, so that no tile reaches beyond the last. Only tiles on and above
 * the diagonal are computed, and on it only what is above; the others are their mirror images. J's rows
 * are read where they lie if they are whole vectors; otherwise they are copied side by side, filled up
 * with zeros.
 */

#define NAME PASTE(KIND, _gram)
#define SAMPLE PASTE(NAME, _sample)
#define COPIED PASTE(NAME, _copied)
#define AT PASTE(NAME, _at)
#define STORE PASTE(NAME, _store)
#define TILE PASTE(NAME, _tile)
#define MOST (SIDE * SIDE)

/* ``count`` vectors become half as many, while their lanes are more than one sum's. */
#define HALVE(lanes)                                                                              \
    UNROLL for (int k = 0, left = (2 * count + lanes - 1) / lanes; lanes <= LANES && 2 * k < left; \
                k++) {                                                                            \
        sum[k] = PAIRS(sum[2 * k], sum[2 * k + 1 < left ? 2 * k + 1 : 2 * k]);                    \
    }

/* Where the results go: T + them, or they; t may be NULL. Places by their steps in bytes. */
typedef struct {
    const char *t;
    char *out;
    npy_intp t_down, t_right, down, right;
} PASTE(NAME, _place);

/* Where a tile keeps the sum for row r and column c: four by four come first, row by row. */
static inline __attribute__((always_inline)) int AT(int rows, int columns, int diagonal, int r, int c)
{
    int four = rows >= 4 && columns >= 4, inner = four ? 4 : columns;
    if (diagonal) {
        return four && c == 4 ? 10 + r : r * inner - r * (r - 1) / 2 + c - r;
    }
    return four && r == 4 && c < 4 ? 16 + c : four && c == 4 ? 16 + 4 * (rows - 4) + r : r * inner + c;
}

/* Adds T where there is one, and stores; ``has_t`` is a constant where this is called. */
#define PUT(TYPE, sum, of_t, place)                                                               \
    do {                                                                                          \
        TYPE total = sum;                                                                         \
        if (has_t) {                                                                              \
            total += *(const TYPE *)(of_t);                                                       \
        }                                                                                         \
        *(TYPE *)(place) = total;                                                                 \
    } while (0)

/* A tile's sums and their mirror images, four at a time if ``whole``: rows without gaps. All but
 * ``sum``, a, b and ``to`` are constants where this is called. */
TARGET static inline __attribute__((always_inline)) void
STORE(int rows, int columns, int diagonal, int has_t, int whole, const REAL *sum, npy_intp a,
      npy_intp b, const PASTE(NAME, _place) *to)
{
    const npy_intp one = sizeof(REAL), right = whole ? one : to->right, down = to->down;
    const npy_intp t_right = whole ? one : to->t_right, t_down = to->t_down;
    char *above = to->out + a * down + b * right, *below = to->out + b * down + a * right;
    const char *here = has_t ? to->t + a * t_down + b * t_right : NULL;
    const char *there = has_t ? to->t + b * t_down + a * t_right : NULL;
    const int four = whole && rows >= 4 && columns >= 4;
    if (four && diagonal) {
        const QUAD *first = (const QUAD *)sum;
        QUAD x = *first, y = *(const QUAD *)(sum + 3);
        QUAD u = *(const QUAD *)(sum + 5), v = *(const QUAD *)(sum + 6);
        PUT(QUAD, x, here, above);
        PUT(QUAD, MIX(x, y, 1, 5, 6, 7), here + t_down, above + down);
        PUT(QUAD, MIX(x, u, 2, 4, 6, 7), here + 2 * t_down, above + 2 * down);
        PUT(QUAD, MIX(x, v, 3, 4, 6, 7), here + 3 * t_down, above + 3 * down);
    }
    else if (four) {
        const QUAD *row = (const QUAD *)sum;
        QUAD x = MIX(row[0], row[1], 0, 4, 2, 6), y = MIX(row[0], row[1], 1, 5, 3, 7);
        QUAD u = MIX(row[2], row[3], 0, 4, 2, 6), v = MIX(row[2], row[3], 1, 5, 3, 7);
        UNROLL for (int r = 0; r < rows; r++) {
            PUT(QUAD, row[r], here + r * t_down, above + r * down);
        }
        PUT(QUAD, MIX(x, u, 0, 1, 4, 5), there, below);
        PUT(QUAD, MIX(y, v, 0, 1, 4, 5), there + t_down, below + down);
        PUT(QUAD, MIX(x, u, 2, 3, 6, 7), there + 2 * t_down, below + 2 * down);
        PUT(QUAD, MIX(y, v, 2, 3, 6, 7), there + 3 * t_down, below + 3 * down);
    }
    if (four && columns == 5) {
        QUAD last = *(const QUAD *)(sum + AT(rows, columns, diagonal, 0, 4));
        PUT(QUAD, last, there + 4 * t_down, below + 4 * down);
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int c = diagonal ? r : 0; c < columns; c++) {
            REAL left = sum[AT(rows, columns, diagonal, r, c)];
            if (!four || c == 4) {
                PUT(REAL, left, here + r * t_down + c * t_right, above + r * down + c * right);
            }
            if (diagonal ? !four && c > r : !four || r == 4) {
                PUT(REAL, left, there + c * t_down + r * t_right, below + c * down + r * right);
            }
        }
    }
}

/* The sums of a tile: weighed rows times rows of J; ``rows``, ``columns`` (at most as many) and
 * whether it is on the diagonal are constants where this is called. */
TARGET static inline __attribute__((always_inline)) void
TILE(int rows, int columns, int diagonal, npy_intp length, const REAL *weighed, const char *y,
     npy_intp apart, REAL *to)
{
    const int count = diagonal ? rows * (rows + 1) / 2 : rows * columns;
    VEC sum[MOST];
    UNROLL for (int k = 0; k < count; k++) {
        sum[k] = (VEC){0};
    }
    for (npy_intp i = 0; i < length; i += LANES) {
        VEC column[SIDE];
        UNROLL for (int c = 0; c < columns; c++) {
            column[c] = *(const VEC *)(y + c * apart + i * sizeof(REAL));
        }
        UNROLL for (int r = 0; r < rows; r++) {
            VEC x = *(const VEC *)(weighed + r * length + i);
            UNROLL for (int c = diagonal ? r : 0; c < columns; c++) {
                sum[AT(rows, columns, diagonal, r, c)] += x * column[c];
            }
        }
    }
    HALVE(2)
    HALVE(4)
    HALVE(8)
    HALVE(16)
    UNROLL for (int k = 0; k < (count + LANES - 1) / LANES; k++) {
        *(VEC *)(to + k * LANES) = sum[k];
    }
}

/* The sums go through memory: to take vectors apart in registers takes longer than to make them. */
#define CASE(r, c, d)                                                                             \
    case 16 * r + 2 * c + d:                                                                      \
        TILE(r, c, d, length, weighed, j + b * apart, apart, sum);                                \
        __asm__ volatile("" ::: "memory");                                                        \
        if (to->right != sizeof(REAL) || (to->t && to->t_right != sizeof(REAL)))                  \
            STORE(r, c, d, to->t != NULL, 0, sum, a, b, to);                                      \
        else if (to->t)                                                                           \
            STORE(r, c, d, 1, 1, sum, a, b, to);                                                  \
        else                                                                                      \
            STORE(r, c, d, 0, 1, sum, a, b, to);                                                  \
        break;

TARGET static void SAMPLE(const char *j, npy_intp apart, REAL *weighed, const REAL *w, npy_intp d,
                          npy_intp length, const PASTE(NAME, _place) *to)
{
    npy_intp blocks = (d + SIDE - 1) / SIDE, size = d / blocks, larger = d % blocks;
    for (npy_intp a = 0, p = 0, rows; a < d; a += rows, p++) {
        rows = size + (p < larger);
        for (int r = 0; r < rows; r++) {
            const REAL *row = (const REAL *)(j + (a + r) * apart);
            for (npy_intp i = 0; i < length; i += LANES) {
                *(VEC *)(weighed + r * length + i) = *(const VEC *)(row + i) * *(const VEC *)(w + i);
            }
        }
        REAL sum[MOST + LANES];
        for (npy_intp b = a, q = p, columns; b < d; b += columns, q++) {
            columns = size + (q < larger);
            switch (16 * rows + 2 * columns + (a == b)) {
                CASE(1, 1, 1)
                CASE(2, 2, 1)
                CASE(3, 3, 1)
                CASE(2, 2, 0)
                CASE(3, 2, 0)
                CASE(3, 3, 0)
#if SIDE > 3
                CASE(4, 4, 1)
                CASE(5, 5, 1)
                CASE(4, 3, 0)
                CASE(4, 4, 0)
                CASE(5, 4, 0)
                CASE(5, 5, 0)
#endif
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
    /* Where J is copied no two rows share a set of the cache. */
    npy_intp line = 64 / sizeof(REAL), apart = ((length + line - 1) / line | 1) * line;
    int there = width == length && in_j[1] == sizeof(REAL);
    int w_there = width == length && *in_w == sizeof(REAL);
    REAL *memory = calloc((SIDE + 1) * length + (there ? 0 : d * apart) + line, sizeof(REAL));
    if (memory == NULL) {
        complain(NULL);
        return;
    }
    REAL *weighed = (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    REAL *w = weighed + SIDE * length, *packed = w + length;
    for (npy_intp k = 0; k < n && d > 0; k++) {
        const char *j = args[0] + k * steps[0], *v = args[1] + k * steps[1];
        for (npy_intp a = 0; !there && a < d && (k == 0 || steps[0] != 0); a++) {
            COPIED(packed + a * apart, j + a * in_j[0], width, in_j[1]);
        }
        if (!w_there) {
            COPIED(w, v, width, *in_w);
        }
        PASTE(NAME, _place) to = {has_t ? args[2] + k * steps[2] : NULL,
                                  args[2 + has_t] + k * steps[2 + has_t],
                                  has_t ? in_t[0] : 0,
                                  has_t ? in_t[1] : 0,
                                  in_out[0],
                                  in_out[1]};
        SAMPLE(there ? j : (char *)packed, there ? in_j[0] : (npy_intp)(apart * sizeof(REAL)), weighed,
               w_there ? (const REAL *)v : w, d, length, &to);
    }
    free(memory);
}

#undef SAMPLE
#undef COPIED
#undef STORE
#undef PUT
#undef AT
#undef TILE
#undef MOST
#undef CASE
#undef HALVE
#undef NAME
