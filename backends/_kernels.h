/* Every kernel for one type and one kind of processor. */

#include "_gram.h"
#include "_matmul.h"
#include "_product_sum.h"
#include "_rows.h"
#include "_tanh.h"

#undef KIND
#undef REAL
#undef BITS
#undef TARGET
#undef LANES
#undef EVEN
#undef ODD
#undef ROWS
