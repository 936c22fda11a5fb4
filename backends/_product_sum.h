/* sum_a x[a, i] y[a, i]: the loop for one type and one kind of processor.
 *
 * With x = y these are the squares of a Jacobian's columns, of which a Laplacian is made. Some vectors
 * of columns are summed at a time, in the order of a. The includer defines KIND, REAL, TARGET, LANES.
 */

#define NAME PASTE(KIND, _product_sum)
#define WIDE 8

/* (a,i),(a,i)->(i) */
TARGET static void NAME(char **args, const npy_intp *sizes, const npy_intp *steps, void *data)
{
    const npy_intp *x_step = steps + 3, *y_step = steps + 5, of_out = steps[7];
    npy_intp rows = sizes[1], width = sizes[2], one = sizeof(REAL);
    int whole = x_step[1] == one && y_step[1] == one && of_out == one;
    for (npy_intp k = 0; k < sizes[0]; k++) {
        const char *x = args[0] + k * steps[0], *y = args[1] + k * steps[1];
        char *out = args[2] + k * steps[2];
        npy_intp i = 0;
        for (; whole && i + WIDE * LANES <= width; i += WIDE * LANES) {
            VEC sum[WIDE] = {{0}};
            for (npy_intp a = 0; a < rows; a++) {
                const VEC *u = (const VEC *)(x + a * x_step[0] + i * one);
                const VEC *v = (const VEC *)(y + a * y_step[0] + i * one);
                UNROLL for (int q = 0; q < WIDE; q++) {
                    sum[q] += u[q] * v[q];
                }
            }
            UNROLL for (int q = 0; q < WIDE; q++) {
                ((VEC *)(out + i * one))[q] = sum[q];
            }
        }
        for (; whole && i + LANES <= width; i += LANES) {
            VEC sum = {0};
            for (npy_intp a = 0; a < rows; a++) {
                sum += *(const VEC *)(x + a * x_step[0] + i * one) *
                       *(const VEC *)(y + a * y_step[0] + i * one);
            }
            *(VEC *)(out + i * one) = sum;
        }
        for (; i < width; i++) {
            REAL sum = 0;
            for (npy_intp a = 0; a < rows; a++) {
                sum += *(const REAL *)(x + a * x_step[0] + i * x_step[1]) *
                       *(const REAL *)(y + a * y_step[0] + i * y_step[1]);
            }
            *(REAL *)(out + i * of_out) = sum;
        }
    }
}

#undef NAME
#undef WIDE
