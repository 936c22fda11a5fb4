/* a + b, a b and c + a b: the loops for one type and one kind of processor.
 *
 * ARITHMETIC goes over one axis, as ufuncs do; ARITHMETIC_ROWS over rows of it as well: next to what
 * a short row takes, a call for each is dear. ``data`` says which of the three it is. The includer
 * defines KIND, REAL, TARGET and LANES. A result may lie where an operand does.
 */

#define ARITHMETIC PASTE(KIND, _arithmetic)
#define ARITHMETIC_ROWS PASTE(KIND, _arithmetic_rows)
#define VEC PASTE(ARITHMETIC, _vector)
#define ROW PASTE(ARITHMETIC, _row)
#define AT(p, i) (*(const REAL *)((p) + (i)))

typedef REAL VEC
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* ``op`` is a constant where this is called; p and step: of a, b, (c,) and the result. */
TARGET static inline __attribute__((always_inline)) void ROW(int op, npy_intp n, char *const *p,
                                                             const npy_intp *step)
{
    const npy_intp one = sizeof(REAL), a = step[0], b = step[1], c = step[2];
    const npy_intp to = step[2 + (op == MULTIPLY_ADD)];
    char *out = p[2 + (op == MULTIPLY_ADD)];
    npy_intp i = 0;
    if ((a == one || a == 0) && (b == one || b == 0) && c == one && to == one) {
        VEC x = AT(p[0], 0) - (VEC){0}, y = AT(p[1], 0) - (VEC){0};
        for (; i + LANES <= n; i += LANES) {
            if (a != 0) {
                x = *(const VEC *)(p[0] + i * one);
            }
            if (b != 0) {
                y = *(const VEC *)(p[1] + i * one);
            }
            VEC result = op == ADD ? x + y : x * y;
            if (op == MULTIPLY_ADD) {
                result = *(const VEC *)(p[2] + i * one) + x * y;
            }
            *(VEC *)(out + i * one) = result;
        }
    }
    for (; i < n; i++) {
        REAL x = AT(p[0], i * a), y = AT(p[1], i * b), result = op == ADD ? x + y : x * y;
        if (op == MULTIPLY_ADD) {
            result = AT(p[2], i * c) + x * y;
        }
        *(REAL *)(out + i * to) = result;
    }
}

TARGET static void ARITHMETIC(char **args, const npy_intp *count, const npy_intp *step, void *data)
{
    int op = (int)(intptr_t)data;
    if (op == ADD) {
        ROW(ADD, *count, args, step);
    }
    else if (op == MULTIPLY) {
        ROW(MULTIPLY, *count, args, step);
    }
    else {
        ROW(MULTIPLY_ADD, *count, args, step);
    }
}

#define EVERY_ROW(op, arrays)                                                                     \
    for (npy_intp r = 0; r < sizes[0]; r++) {                                                     \
        ROW(op, sizes[1], p, steps + arrays);                                                     \
        for (int k = 0; k < arrays; k++) {                                                        \
            p[k] += steps[k];                                                                     \
        }                                                                                         \
    }

/* (i),(i)[,(i)]->(i) */
TARGET static void ARITHMETIC_ROWS(char **args, const npy_intp *sizes, const npy_intp *steps,
                                   void *data)
{
    int op = (int)(intptr_t)data;
    char *p[4] = {args[0], args[1], args[2], op == MULTIPLY_ADD ? args[3] : NULL};
    if (op == ADD) {
        EVERY_ROW(ADD, 3)
    }
    else if (op == MULTIPLY) {
        EVERY_ROW(MULTIPLY, 3)
    }
    else {
        EVERY_ROW(MULTIPLY_ADD, 4)
    }
}

#undef ARITHMETIC
#undef ARITHMETIC_ROWS
#undef VEC
#undef ROW
#undef AT
#undef EVERY_ROW
