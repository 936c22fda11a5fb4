/* Every kernel for one type and one kind of processor. */

#include "_vectors.h"

#include "_gram.h"
#include "_grams.h"
#include "_product_sum.h"
#include "_rows.h"
#include "_slopes.h"
#include "_tiles.h"
#include "_matmul.h" /* of tiles, as what follows */
#include "_row_dots.h"

#undef VEC
#undef QUAD
#undef PAIRS
#undef BLOCK
#undef COLUMNS
#undef WEIGH
#undef KIND
#undef REAL
#undef BITS
#undef TARGET
#undef LANES
#undef EVEN
#undef ODD
#undef ROWS
#undef SIDE
