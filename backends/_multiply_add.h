/* c + a b, entry by entry: the loop for one type and one kind of processor.
 *
 * The includer defines KIND, REAL, TARGET and LANES. The result may lie where an operand does.
 */

#define NAME PASTE(KIND, _multiply_add)
#define VEC PASTE(NAME, _vector)

typedef REAL VEC
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

TARGET static void NAME(char **args, const npy_intp *count, const npy_intp *step, void *data)
{
    char *a = args[0], *b = args[1], *c = args[2], *to = args[3];
    npy_intp n = *count, i = 0, whole = sizeof(REAL);
    if (step[0] == whole && step[2] == whole && step[3] == whole) {
        if (step[1] == whole) {
            for (; i + LANES <= n; i += LANES) {
                *(VEC *)(to + i * whole) = *(const VEC *)(c + i * whole) +
                                           *(const VEC *)(a + i * whole) *
                                               *(const VEC *)(b + i * whole);
            }
        }
        else if (step[1] == 0) {
            VEC factor = *(const REAL *)b - (VEC){0};
            for (; i + LANES <= n; i += LANES) {
                *(VEC *)(to + i * whole) =
                    *(const VEC *)(c + i * whole) + *(const VEC *)(a + i * whole) * factor;
            }
        }
    }
    for (; i < n; i++) {
        *(REAL *)(to + i * step[3]) = *(const REAL *)(c + i * step[2]) +
                                      *(const REAL *)(a + i * step[0]) *
                                          *(const REAL *)(b + i * step[1]);
    }
}

#undef VEC
#undef NAME
