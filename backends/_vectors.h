/* A vector of one type for one kind of processor, four entries, and the sum of a vector's entries. */

#define VEC PASTE(KIND, _vector)
#define QUAD PASTE(KIND, _quad)
#define PAIRS PASTE(KIND, _pairs)

typedef REAL VEC
    __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef REAL QUAD __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* (x0 + x1, x2 + x3, ..., y0 + y1, ...): halves what is left to add in two vectors. */
TARGET static inline __attribute__((always_inline)) VEC PAIRS(VEC x, VEC y)
{
    return __builtin_shufflevector(x, y, EVEN) + __builtin_shufflevector(x, y, ODD);
}
