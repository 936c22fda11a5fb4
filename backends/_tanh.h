/* tanh z and sech^2 z = (1 / cosh z)^2 together: the loop for one type and one kind of processor.
 *
 * With a = |z| and e = exp(-2a), of which e - 1 is found without cancellation,
 *
 *     tanh a = (1 - e) / (1 + e),   sech^2 a = 4 e / (1 + e)^2.
 *
 * exp(x) is 2^k exp(r) with |r| <= log(2) / 2, and exp(r) - 1 its series, as far as the type sees.
 * 2^k is two factors, so that e fades through the subnormal numbers. Both quotients come from one
 * reciprocal and are corrected by their remainders. Some vectors are computed at a time: each is a
 * long chain of operations that wait for one another.
 *
 * The includer defines KIND, REAL, BITS (the integer of that size), TARGET and LANES.
 */

#define NAME PASTE(KIND, _tanh_sech2)
#define WORD PASTE(NAME, _word)
#define SOME PASTE(NAME, _some)
#define AT_ONCE (4 * LANES)
#define EACH UNROLL for (int u = 0; u < 4; u++)
#define BOTH(of_double, of_float) (sizeof(REAL) == 8 ? (REAL)(of_double) : (REAL)(of_float))
#define SIGN ((BITS)((uint64_t)1 << (8 * sizeof(REAL) - 1)))
#define FRACTION (sizeof(REAL) == 8 ? 52 : 23)
#define BIAS (sizeof(REAL) == 8 ? 1023 : 127)
#define ROUND BOTH(6755399441055744.0, 12582912.0) /* 1.5 2^FRACTION: what is added is an integer */
#define MOST BOTH(400, 60)                         /* from here on e is zero */

typedef BITS WORD
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

TARGET static inline __attribute__((always_inline)) void SOME(const REAL *from, REAL *tanh_z,
                                                              REAL *sech2_z)
{
    static const REAL series[] = {
        1.0, 1.0, 0.5, (REAL)(1 / 6.0), (REAL)(1 / 24.0), (REAL)(1 / 120.0), (REAL)(1 / 720.0),
        (REAL)(1 / 5040.0), (REAL)(1 / 40320.0), (REAL)(1 / 362880.0), (REAL)(1 / 3628800.0),
        (REAL)(1 / 39916800.0), (REAL)(1 / 479001600.0), (REAL)(1 / 6227020800.0)};
    const int terms = sizeof(REAL) == 8 ? 13 : 7;
    const WORD integer = (WORD)(ROUND - (VEC){0});
    VEC x[4], k[4], r[4], p[4], f[4], g[4], e[4], less[4];
    EACH {
        VEC a = (VEC)(*(const WORD *)(from + u * LANES) & ~SIGN);
        WORD far = (WORD)(a > MOST);
        x[u] = (VEC)(((WORD)a & ~far) | ((WORD)(MOST - (VEC){0}) & far)) * (REAL)-2;
    }
    EACH {
        VEC rounded = x[u] * (REAL)1.4426950408889634 + ROUND; /* / log 2 */
        k[u] = rounded - ROUND;
        VEC halved = k[u] * (REAL)0.5 + ROUND;
        WORD half = (WORD)halved - integer, whole = (WORD)rounded - integer;
        f[u] = (VEC)((half + BIAS) << FRACTION);
        g[u] = (VEC)((whole - half + BIAS) << FRACTION);
    }
    EACH { /* log 2 in two parts: k times the first is exact */
        r[u] = x[u] - k[u] * BOTH(6.93147180369123816490e-01, 6.9314575195e-01);
        r[u] -= k[u] * BOTH(1.90821492927058770002e-10, 1.4286067653e-06);
        p[u] = series[terms] - (VEC){0};
    }
    UNROLL for (int j = terms - 1; j > 1; j--) {
        EACH p[u] = p[u] * r[u] + series[j];
    }
    EACH {
        p[u] = p[u] * (r[u] * r[u]) + r[u];
        e[u] = (p[u] + 1) * f[u] * g[u];
        less[u] = p[u] * f[u] * g[u] + (f[u] * g[u] - 1);
    }
    EACH {
        VEC d = less[u] + 2, q = 1 / d, above = (VEC){0} - less[u];
        VEC t = above * q, s = e[u] * 4 * q * q;
        t += (above - t * d) * q;
        s += (e[u] * 4 - s * (d * d)) * (q * q);
        WORD sign = *(const WORD *)(from + u * LANES) & SIGN;
        *(VEC *)(tanh_z + u * LANES) = (VEC)((WORD)t | sign);
        *(VEC *)(sech2_z + u * LANES) = s;
    }
}

TARGET static void NAME(char **args, const npy_intp *count, const npy_intp *step, void *data)
{
    npy_intp n = *count, i = 0, one = sizeof(REAL);
    if (step[0] == one && step[1] == one && step[2] == one) {
        for (; i + AT_ONCE <= n; i += AT_ONCE) {
            SOME((REAL *)args[0] + i, (REAL *)args[1] + i, (REAL *)args[2] + i);
        }
    }
    while (i < n) {
        REAL z[AT_ONCE] = {0}, t[AT_ONCE], s[AT_ONCE];
        int left = n - i < AT_ONCE ? (int)(n - i) : AT_ONCE;
        for (int u = 0; u < left; u++) {
            z[u] = *(REAL *)(args[0] + (i + u) * step[0]);
        }
        SOME(z, t, s);
        for (int u = 0; u < left; u++, i++) {
            *(REAL *)(args[1] + i * step[1]) = t[u];
            *(REAL *)(args[2] + i * step[2]) = s[u];
        }
    }
}

#undef WORD
#undef SOME
#undef AT_ONCE
#undef EACH
#undef BOTH
#undef SIGN
#undef FRACTION
#undef BIAS
#undef ROUND
#undef MOST
#undef NAME
