/* An activation with its slopes, s, s' and s'', for one type and one kind of processor: tanh, the
 * logistic function sigma(z) = 1 / (1 + exp(-z)) and silu, z sigma(z).
 *
 * With a = |z|, e = exp(-c a) for c = 2 (tanh) or 1, of which e - 1 is found without cancellation,
 * q = 1 / (1 + e) and t = (1 - e) q = tanh(c a / 2):
 *
 *              s                      s'                           s''
 *     tanh     t                      4 e q^2                      -2 t s'
 *     sigma    q, e q where z < 0     e q^2                        -t e q^2
 *     silu     z sigma(z)             q (1 + a e q),               e q^2 (2 - a t)
 *                                     e q (1 - a q) where z < 0
 *
 * with the sign of z for odd s and s''. exp(x) is 2^k exp(r) with |r| <= log(2) / 2, and exp(r) - 1 its
 * series, as far as the type sees. 2^k is two factors, f g, that are multiplied last, one by one: what
 * is small fades through the subnormal numbers, rounded there at the end. Some vectors are computed at a time: each
 * is a long chain of operations that wait for one another.
 *
 * The includer defines KIND, REAL, BITS (the integer of that size), TARGET and LANES.
 */

#define WORD PASTE(KIND, _word)
#define SOME PASTE(KIND, _some_slopes)
#define ALL PASTE(KIND, _all_slopes)
#define AGAIN PASTE(KIND, _again)
#define AT_ONCE (4 * LANES)
#define EACH UNROLL for (int u = 0; u < 4; u++)
#define BOTH(of_double, of_float) (sizeof(REAL) == 8 ? (REAL)(of_double) : (REAL)(of_float))
#define SIGN ((BITS)((uint64_t)1 << (8 * sizeof(REAL) - 1)))
#define FRACTION (sizeof(REAL) == 8 ? 52 : 23)
#define BIAS (sizeof(REAL) == 8 ? 1023 : 127)
#define ROUND BOTH(6755399441055744.0, 12582912.0) /* 1.5 2^FRACTION: what is added is an integer */
#define MOST BOTH(800, 120)                        /* c a: from here on e is zero */
#define CHOSEN(mask, yes, no)                                                                     \
    ((VEC)(((WORD)(yes) & (WORD)(mask)) | ((WORD)(no) & ~(WORD)(mask))))
#define PUT(order, value)                                                                         \
    if (to[order] != NULL) {                                                                      \
        EACH *(VEC *)(to[order] + u * LANES) = value;                                             \
    }

typedef BITS WORD
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* x, which the compiler takes for another number: AGAIN(x) y - x y is what rounding x y loses, where
 * the processor multiplies and subtracts in one, and not a product less itself. */
TARGET static inline __attribute__((always_inline)) VEC AGAIN(VEC x)
{
#if defined(__x86_64__)
    __asm__("" : "+v"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
}

/* ``function`` is constant where this is called; ``to`` has a place for each order, or NULL. */
TARGET static inline __attribute__((always_inline)) void SOME(int function, const REAL *from,
                                                              REAL *const *to)
{
    static const REAL series[] = {
        1.0, 1.0, 0.5, (REAL)(1 / 6.0), (REAL)(1 / 24.0), (REAL)(1 / 120.0), (REAL)(1 / 720.0),
        (REAL)(1 / 5040.0), (REAL)(1 / 40320.0), (REAL)(1 / 362880.0), (REAL)(1 / 3628800.0),
        (REAL)(1 / 39916800.0), (REAL)(1 / 479001600.0), (REAL)(1 / 6227020800.0)};
    const int terms = sizeof(REAL) == 8 ? 13 : 7;
    const REAL c = function == TANH ? 2 : 1;
    const WORD integer = (WORD)(ROUND - (VEC){0});
    VEC z[4], a[4], x[4], k[4], r[4], p[4], f[4], g[4], q[4], ql[4], t[4], tl[4], m[4], ml[4];
    EACH {
        z[u] = *(const VEC *)(from + u * LANES);
        a[u] = (VEC)((WORD)z[u] & ~SIGN);
        WORD far = (WORD)(a[u] > MOST / c);
        a[u] = CHOSEN(far, MOST / c - (VEC){0}, a[u]);
        x[u] = a[u] * -c;
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
    EACH p[u] = p[u] * (r[u] * r[u]) + r[u];
    if (function == TANH) { /* the most frequent one corrects nothing but 1 / (1 + e) */
        VEC s1[4];
        EACH {
            VEC fg = f[u] * g[u], e = fg + p[u] * fg, d = 1 + e;
            q[u] = 1 / d;
            ql[u] = 1 - d * q[u] - (e - (d - 1)) * q[u]; /* in units of q */
            t[u] = (1 - fg - p[u] * fg) * q[u];
            t[u] += t[u] * ql[u];
            t[u] = (VEC)((WORD)t[u] | ((WORD)z[u] & SIGN));
            s1[u] = (p[u] + 1) * q[u] * q[u];
            s1[u] += s1[u] * (ql[u] + ql[u]);
            s1[u] = s1[u] * 4 * f[u] * g[u];
        }
        PUT(0, t[u]);
        PUT(1, s1[u]);
        PUT(2, t[u] * s1[u] * -2);
        return;
    }
    EACH { /* what a sum, product or quotient loses is kept beside it: dl, ql, tl, ml */
        VEC one = p[u] + 1, ones = p[u] - (one - 1), fg = f[u] * g[u], e = one * fg;
        VEC d = e + 1, dl = e - (d - 1) + ones * fg;
        VEC above = 1 - fg - p[u] * fg, al = 1 - fg - above - p[u] * fg;
        q[u] = 1 / d;
        ql[u] = (1 - d * q[u] - dl * q[u]) * q[u];
        VEC near = above * q[u], rest = (above - near * d - near * dl + al) * q[u];
        t[u] = near + rest;
        tl[u] = near - t[u] + rest;
        m[u] = one * q[u]; /* sigma(-a), but for f g */
        ml[u] = AGAIN(one) * q[u] - m[u] + one * ql[u] + ones * q[u];
    }
    VEC s1[4]; /* e q^2, but for f g */
    EACH {
        VEC product = m[u] * q[u];
        s1[u] = product + (AGAIN(m[u]) * q[u] - product + m[u] * ql[u] + ml[u] * q[u]);
    }
    if (function == SIGMOID) {
        PUT(0, CHOSEN(z[u] < 0, (m[u] + ml[u]) * f[u] * g[u], q[u] + ql[u]));
        PUT(1, s1[u] * f[u] * g[u]);
        PUT(2, (VEC)((WORD)(s1[u] * t[u] * f[u] * g[u]) | (~(WORD)z[u] & SIGN)));
    }
    else {
        VEC v[4], w[4], y[4]; /* y: z, as far as e is not zero */
        EACH {
            y[u] = (VEC)((WORD)a[u] | ((WORD)z[u] & SIGN));
            v[u] = 1 - a[u] * q[u] - a[u] * ql[u];
            w[u] = 2 - a[u] * t[u] - a[u] * tl[u];
        }
        PUT(0, CHOSEN(z[u] < 0, (y[u] * m[u] + y[u] * ml[u]) * f[u] * g[u],
                      z[u] * q[u] + y[u] * ql[u]));
        PUT(1, CHOSEN(z[u] < 0, (m[u] * v[u] + ml[u] * v[u]) * f[u] * g[u],
                      q[u] + (q[u] * (a[u] * (m[u] * f[u] * g[u])) + ql[u])));
        PUT(2, s1[u] * w[u] * f[u] * g[u]);
    }
}

/* The orders whose bits are set in ``data``, each into an array of its own. */
TARGET static inline __attribute__((always_inline)) void ALL(int function, char **args, npy_intp n,
                                                             const npy_intp *step, void *data)
{
    npy_intp i = 0, one = sizeof(REAL);
    int orders = (int)(intptr_t)data, contiguous = step[0] == one, at[3], last = 0;
    for (int o = 0; o < 3; o++) {
        at[o] = orders >> o & 1 ? ++last : 0; /* its place among the arrays; 0: not wanted */
        contiguous &= at[o] == 0 || step[at[o]] == one;
    }
    while (i < n) {
        REAL z[AT_ONCE], found[3][AT_ONCE], *to[3];
        const REAL *from = (REAL *)args[0] + i;
        int left = n - i < AT_ONCE ? (int)(n - i) : AT_ONCE, whole = contiguous && left == AT_ONCE;
        if (!whole) {
            from = z;
            for (int u = 0; u < AT_ONCE; u++) {
                z[u] = u < left ? *(REAL *)(args[0] + (i + u) * step[0]) : 0;
            }
        }
        for (int o = 0; o < 3; o++) {
            to[o] = at[o] == 0 ? NULL : whole ? (REAL *)args[at[o]] + i : found[o];
        }
        SOME(function, from, to);
        for (int o = 0; o < 3 && !whole; o++) {
            for (int u = 0; to[o] != NULL && u < left; u++) {
                *(REAL *)(args[at[o]] + (i + u) * step[at[o]]) = found[o][u];
            }
        }
        i += left;
    }
}

#define FUNCTION(name, number)                                                                    \
    TARGET static void PASTE(KIND, name)(char **args, const npy_intp *count, const npy_intp *step, \
                                         void *data)                                              \
    {                                                                                             \
        ALL(number, args, *count, step, data);                                                    \
    }
FUNCTION(_tanh, TANH)
FUNCTION(_sigmoid, SIGMOID)
FUNCTION(_silu, SILU)

#undef WORD
#undef SOME
#undef ALL
#undef AGAIN
#undef AT_ONCE
#undef EACH
#undef BOTH
#undef SIGN
#undef FRACTION
#undef BIAS
#undef ROUND
#undef MOST
#undef CHOSEN
#undef PUT
#undef FUNCTION
