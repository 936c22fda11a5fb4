/* a + b, a b and c + a b: the loops for one type and one kind of processor.
 *
 * ARITHMETIC goes over one axis, as ufuncs do; ARITHMETIC_ROWS over rows of it as well: next to what
 * a short row takes, a call for each is dear. ``data`` says which of the three it is. The includer
 * defines KIND, REAL, TARGET and LANES. A result may lie where an operand does.
 */

#define ARITHMETIC PASTE(KIND, _arithmetic)
#define ARITHMETIC_ROWS PASTE(KIND, _arithmetic_rows)
#define ROW PASTE(ARITHMETIC, _row)
#define ROWS_OF PASTE(ARITHMETIC, _rows_of)
#define AT(p, i) (*(const REAL *)((p) + (i)))

/* ``op`` and ``whole`` are constants where this is called; a, b and c may be repeated (step 0). */
TARGET static inline __attribute__((always_inline)) void
ROW(int op, int whole, npy_intp n, const char *a, npy_intp of_a, const char *b, npy_intp of_b,
    const char *c, npy_intp of_c, char *to, npy_intp of_to)
{
    npy_intp i = 0;
    if (whole) {
        VEC x = AT(a, 0) - (VEC){0}, y = AT(b, 0) - (VEC){0};
        for (; i + LANES <= n; i += LANES) {
            if (of_a != 0) {
                x = *(const VEC *)(a + i * sizeof(REAL));
            }
            if (of_b != 0) {
                y = *(const VEC *)(b + i * sizeof(REAL));
            }
            VEC result = op == ADD ? x + y : x * y;
            if (op == MULTIPLY_ADD) {
                result = *(const VEC *)(c + i * sizeof(REAL)) + x * y;
            }
            *(VEC *)(to + i * sizeof(REAL)) = result;
        }
    }
    for (; i < n; i++) {
        REAL x = AT(a, i * of_a), y = AT(b, i * of_b), result = op == ADD ? x + y : x * y;
        if (op == MULTIPLY_ADD) {
            result = AT(c, i * of_c) + x * y;
        }
        *(REAL *)(to + i * of_to) = result;
    }
}

/* So many rows; p: of a, b, (c) and the result, with their steps from row to row and inside. */
TARGET static inline __attribute__((always_inline)) void
ROWS_OF(int op, npy_intp rows, npy_intp n, char *const *p, const npy_intp *down,
        const npy_intp *right)
{
    const int last = op == MULTIPLY_ADD ? 3 : 2;
    const npy_intp one = sizeof(REAL), a = right[0], b = right[1], c = right[2], to = right[last];
    char *of_a = p[0], *of_b = p[1], *of_c = p[2], *of_to = p[last];
    int whole = (a == one || a == 0) && (b == one || b == 0) && c == one && to == one;
    for (npy_intp r = 0; r < rows; r++) {
        if (whole) {
            ROW(op, 1, n, of_a, a, of_b, b, of_c, c, of_to, to);
        }
        else {
            ROW(op, 0, n, of_a, a, of_b, b, of_c, c, of_to, to);
        }
        of_a += down[0];
        of_b += down[1];
        of_c += down[2];
        of_to += down[last];
    }
}

#define EACH_OP(rows, n, down, right)                                                             \
    switch ((int)(intptr_t)data) {                                                                \
    case ADD:                                                                                     \
        ROWS_OF(ADD, rows, n, args, down, right);                                                 \
        break;                                                                                    \
    case MULTIPLY:                                                                                \
        ROWS_OF(MULTIPLY, rows, n, args, down, right);                                            \
        break;                                                                                    \
    default:                                                                                      \
        ROWS_OF(MULTIPLY_ADD, rows, n, args, down, right);                                        \
    }

TARGET static void ARITHMETIC(char **args, const npy_intp *count, const npy_intp *step, void *data)
{
    EACH_OP(1, *count, step, step)
}

/* (i),(i)[,(i)]->(i) */
TARGET static void ARITHMETIC_ROWS(char **args, const npy_intp *sizes, const npy_intp *steps,
                                   void *data)
{
    const npy_intp *inside = steps + ((intptr_t)data == MULTIPLY_ADD ? 4 : 3);
    EACH_OP(sizes[0], sizes[1], steps, inside)
}

#undef ARITHMETIC
#undef ARITHMETIC_ROWS
#undef ROW
#undef AT
#undef ROWS_OF
#undef EACH_OP
