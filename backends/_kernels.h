/* Every kernel for one type and one kind of processor. */

#include "_gram.h"
#include "_matmul.h"
#include "_multiply_add.h"

#undef KIND
#undef REAL
#undef TARGET
#undef LANES
#undef EVEN
#undef ODD
#undef ROWS
