/* Runs a straight line of NumPy operations without the interpreter between them.
 *
 * A program is a list of calls of NumPy's own inner loops (the ones behind np.tanh, np.multiply,
 * np.matmul): which loop, on which arrays, over which axes with which strides. numpy_loops.py
 * records it once from the same program text that NumPy would run call by call; here it runs with
 * one check of its arguments and without the interpreter lock. Arithmetic is NumPy's, but for what
 * the kernels of _kernels.h do in one pass.
 *
 * Operands are byte offsets into a few base arrays that come with every run (the work buffer,
 * inputs, constants, results), so that one program serves all threads and all calls. How far each
 * base is reached is known when the program is built, and every run is checked against it.
 */

#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <numpy/arrayobject.h>
#include <numpy/ufuncobject.h>

#define MAX_AXES 8
#define MAX_ARGS 5
#define MAX_BASES (1 << 20)
#define MOST_BYTES 9007199254740992.0 /* 2^53: exact in a double */

#define MAX_CORE 4     /* axes inside a generalised ufunc: m, k, q, p of product */
#define MAX_CORE_ARGS 9

enum { ELEMENTWISE, GENERALISED, MASKED_COPY };

typedef struct {
    int kind, nargs, axes;
    PyUFuncGenericFunction loop;
    void *data;
    int base[MAX_ARGS];
    npy_intp offset[MAX_ARGS];
    npy_intp shape[MAX_AXES];               /* looped axes, the innermost last */
    npy_intp stride[MAX_ARGS][MAX_AXES];    /* bytes */
    int cores, core_args;                   /* GENERALISED: lengths inside, strides in all */
    npy_intp core[MAX_CORE], core_stride[MAX_CORE_ARGS];
    int itemsize;                           /* MASKED_COPY */
} Op;

typedef struct {
    PyObject_HEAD
    Py_ssize_t count;
    Py_ssize_t bases;
    Op *ops;
    npy_intp *reach; /* of each base: bytes that the program reads or writes */
    char *written;   /* of each base: whether it writes there */
    PyObject *keep;  /* the ufuncs: their loops are used as long as the program lives */
} Program;

/* ---- running ------------------------------------------------------------------------------- */

static void masked_copy(char **p, npy_intp n, const npy_intp *step, int itemsize)
{
    char *mask = p[0], *from = p[1], *to = p[2];
    for (npy_intp i = 0; i < n; i++) {
        if (*mask) {
            memcpy(to, from, itemsize);
        }
        mask += step[0];
        from += step[1];
        to += step[2];
    }
}

/* One pass over the innermost looped axis. */
static void inner(const Op *op, char **p, npy_intp n, const npy_intp *step)
{
    if (op->kind == ELEMENTWISE) {
        op->loop(p, &n, step, op->data);
    }
    else if (op->kind == GENERALISED) {
        npy_intp size[1 + MAX_CORE] = {n}, steps[MAX_ARGS + MAX_CORE_ARGS];
        memcpy(size + 1, op->core, sizeof op->core);
        memcpy(steps, step, op->nargs * sizeof *steps);
        memcpy(steps + op->nargs, op->core_stride, sizeof op->core_stride);
        op->loop(p, size, steps, op->data);
    }
    else {
        masked_copy(p, n, step, op->itemsize);
    }
}

static void perform(const Op *op, char *const *bases)
{
    char *p[MAX_ARGS];
    npy_intp index[MAX_AXES] = {0}, step[MAX_ARGS];
    int last = op->axes - 1;
    for (int a = 0; a < op->nargs; a++) {
        p[a] = bases[op->base[a]] + op->offset[a];
        step[a] = op->stride[a][last];
    }
    for (;;) {
        char *now[MAX_ARGS];
        memcpy(now, p, sizeof p);
        inner(op, now, op->shape[last], step);
        int axis = last - 1;
        while (axis >= 0) {
            for (int a = 0; a < op->nargs; a++) {
                p[a] += op->stride[a][axis];
            }
            if (++index[axis] < op->shape[axis]) {
                break;
            }
            for (int a = 0; a < op->nargs; a++) {
                p[a] -= op->stride[a][axis] * op->shape[axis];
            }
            index[axis--] = 0;
        }
        if (axis < 0) {
            return;
        }
    }
}

/* Perform all operations so many times; each base moves on by ``advance`` bytes in between. */
static PyObject *run_times(Program *self, PyObject *const *groups, Py_ssize_t count,
                           Py_ssize_t times, PyObject *advance)
{
    char *small[128], **bases = small;
    npy_intp few[128], *steps = few;
    Py_ssize_t found = 0;
    if (self->bases > 128) {
        bases = PyMem_Malloc(self->bases * sizeof *bases);
        steps = PyMem_Malloc(self->bases * sizeof *steps);
        if (bases == NULL || steps == NULL) {
            PyErr_NoMemory();
            goto done;
        }
    }
    for (Py_ssize_t g = 0; g < count; g++) {
        if (!PyTuple_Check(groups[g])) {
            PyErr_SetString(PyExc_TypeError, "run takes tuples of arrays");
            goto done;
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(groups[g]); i++) {
            PyObject *array = PyTuple_GET_ITEM(groups[g], i);
            if (found == self->bases || !PyArray_Check(array)) {
                PyErr_Format(PyExc_TypeError, "run takes %zd arrays", self->bases);
                goto done;
            }
            npy_intp step = advance == NULL ? 0 : PyLong_AsSsize_t(PyTuple_GET_ITEM(advance, found));
            if (step == -1 && PyErr_Occurred()) {
                goto done;
            }
            if (step < 0 || (step > 0 && (double)step * (double)times > MOST_BYTES)) {
                PyErr_SetString(PyExc_ValueError, "an array cannot move on by so many bytes");
                goto done;
            }
            PyArrayObject *base = (PyArrayObject *)array;
            npy_intp reach = self->reach[found] + step * (times - 1);
            if (!PyArray_IS_C_CONTIGUOUS(base) || PyArray_NBYTES(base) < reach ||
                (self->written[found] && !PyArray_ISWRITEABLE(base))) {
                PyErr_Format(PyExc_ValueError,
                             "array %zd must be contiguous%s and hold %zd bytes or more", found,
                             self->written[found] ? ", writeable" : "", reach);
                goto done;
            }
            steps[found] = step;
            bases[found++] = PyArray_BYTES(base);
        }
    }
    if (found != self->bases) {
        PyErr_Format(PyExc_TypeError, "run takes %zd arrays, got %zd", self->bases, found);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t t = 0; t < times; t++) {
        for (Py_ssize_t i = 0; i < self->count; i++) {
            perform(self->ops + i, bases);
        }
        for (Py_ssize_t i = 0; i < self->bases; i++) {
            bases[i] += steps[i];
        }
    }
    feclearexcept(FE_ALL_EXCEPT); /* overflow on the way to a right result is no news */
    Py_END_ALLOW_THREADS
done:
    if (bases != small) {
        PyMem_Free(bases);
    }
    if (steps != few) {
        PyMem_Free(steps);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *program_run(Program *self, PyObject *const *groups, Py_ssize_t count)
{
    return run_times(self, groups, count, 1, NULL);
}

static PyObject *program_repeat(Program *self, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t times = count < 2 ? -1 : PyLong_AsSsize_t(args[0]);
    if (times < 1 || !PyTuple_Check(args[1]) || PyTuple_GET_SIZE(args[1]) != self->bases) {
        PyErr_Format(PyExc_ValueError, "repeat takes how often, and %zd numbers of bytes",
                     self->bases);
        return NULL;
    }
    return run_times(self, args + 2, count - 2, times, args[1]);
}

/* ---- building ------------------------------------------------------------------------------ */

/* Merge axes that run on without a gap for every argument; the innermost first. */
static void coalesce(Op *op)
{
    int kept = 0;
    for (int axis = 0; axis < op->axes; axis++) {
        if (op->shape[axis] == 1) {
            continue;
        }
        int joins = kept > 0;
        for (int a = 0; a < op->nargs && joins; a++) {
            joins = op->stride[a][kept - 1] == op->stride[a][axis] * op->shape[axis];
        }
        int to = joins ? kept - 1 : kept++;
        op->shape[to] = joins ? op->shape[to] * op->shape[axis] : op->shape[axis];
        for (int a = 0; a < op->nargs; a++) {
            op->stride[a][to] = op->stride[a][axis];
        }
    }
    if (kept == 0) {
        op->shape[0] = 1;
        for (int a = 0; a < op->nargs; a++) {
            op->stride[a][0] = 0;
        }
        kept = 1;
    }
    op->axes = kept;
}

/* Bytes of an entry; 0 for types whose loops need the interpreter, or that no program holds. */
static int size_of(char type)
{
    return type == 'd' ? 8 : type == 'f' ? 4 : type == '?' ? 1 : 0;
}

static int counted(const int *numbers, int count)
{
    int total = 0;
    for (int i = 0; i < count; i++) {
        total += numbers[i];
    }
    return total;
}

static int find_loop(Op *op, PyObject *ufunc, const char *types)
{
    PyUFuncObject *u = (PyUFuncObject *)ufunc;
    if (!PyObject_TypeCheck(ufunc, &PyUFunc_Type)) {
        PyErr_SetString(PyExc_TypeError, "a ufunc is expected");
        return -1;
    }
    if (op->nargs != u->nargs || u->core_enabled != (op->kind == GENERALISED) ||
        (u->core_enabled && (op->cores != u->core_num_dim_ix ||
                             op->core_args != counted(u->core_num_dims, u->nargs)))) {
        PyErr_Format(PyExc_ValueError, "%s does not fit this kind of operation", u->name);
        return -1;
    }
    for (int i = 0; i < u->ntypes; i++) {
        int same = 1;
        for (int k = 0; k < u->nargs && same; k++) {
            PyArray_Descr *descr = PyArray_DescrFromType(u->types[i * u->nargs + k]);
            same = descr != NULL && descr->type == types[k] && size_of(types[k]) > 0;
            Py_XDECREF(descr);
        }
        if (same && u->functions[i] != NULL) {
            op->loop = u->functions[i];
            op->data = u->data == NULL ? NULL : u->data[i];
            return 0;
        }
    }
    PyErr_Format(PyExc_LookupError, "%s has no loop for %s", u->name, types);
    return -1;
}

static int read_numbers(PyObject *tuple, npy_intp *to, int most)
{
    Py_ssize_t n = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : -1;
    if (n < 0 || n > most) {
        PyErr_SetString(PyExc_ValueError, "a short tuple of integers is expected");
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        to[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(tuple, i));
        if (to[i] == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    return (int)n;
}

static void extend(double *low, double *high, npy_intp count, npy_intp stride)
{
    double last = ((double)count - 1) * (double)stride;
    *(last < 0 ? low : high) += last;
}

/* Note how far an operation reaches into its bases; -1 where that lies before their beginning. */
static int note_reach(const Op *op, const PyUFuncObject *u, const char *types, npy_intp *reach,
                      char *written)
{
    for (int a = 0; a < op->nargs; a++) {
        double low = (double)op->offset[a], high = low + size_of(types[a]);
        for (int axis = 0; axis < op->axes; axis++) {
            extend(&low, &high, op->shape[axis], op->stride[a][axis]);
        }
        for (int k = 0; op->kind == GENERALISED && k < u->core_num_dims[a]; k++) {
            int at = u->core_offsets[a] + k;
            extend(&low, &high, op->core[u->core_dim_ixs[at]], op->core_stride[at]);
        }
        if (low < 0 || high > MOST_BYTES) {
            return -1;
        }
        if (high > (double)reach[op->base[a]]) {
            reach[op->base[a]] = (npy_intp)high;
        }
    }
    for (int a = u == NULL ? 2 : u->nin; a < op->nargs; a++) { /* NULL: a masked copy */
        written[op->base[a]] = 1;
    }
    return 0;
}

static int all_positive(const npy_intp *number, int count)
{
    for (int i = 0; i < count; i++) {
        if (number[i] < 1) {
            return 0;
        }
    }
    return 1;
}

/* (kind, ufunc, types, bases, offsets, shape, (strides, ...), core, core strides) */
static int read_op(Op *op, PyObject *item, const Program *self)
{
    PyObject *ufunc, *base, *offset, *shape, *strides, *core, *core_strides;
    const char *types;
    npy_intp number[MAX_ARGS], extra[MAX_CORE] = {0};
    memset(op, 0, sizeof *op);
    if (!PyTuple_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "an operation is a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(item, "iOsOOOOOO", &op->kind, &ufunc, &types, &base, &offset, &shape,
                          &strides, &core, &core_strides)) {
        return -1;
    }
    op->nargs = read_numbers(base, number, MAX_ARGS);
    if (op->nargs < 0 || read_numbers(offset, op->offset, MAX_ARGS) != op->nargs ||
        !PyTuple_Check(strides) || PyTuple_GET_SIZE(strides) != op->nargs) {
        goto bad;
    }
    op->axes = read_numbers(shape, op->shape, MAX_AXES);
    for (int a = 0; a < op->nargs; a++) {
        if (number[a] < 0 || number[a] >= self->bases ||
            read_numbers(PyTuple_GET_ITEM(strides, a), op->stride[a], MAX_AXES) != op->axes) {
            goto bad;
        }
        op->base[a] = (int)number[a];
    }
    op->cores = read_numbers(core, extra, MAX_CORE);
    if (op->kind < ELEMENTWISE || op->kind > MASKED_COPY || op->axes < 0 ||
        !all_positive(op->shape, op->axes) || !all_positive(extra, op->cores)) {
        goto bad;
    }
    if (op->kind == MASKED_COPY) {
        op->itemsize = (int)extra[0];
        if (op->nargs != 3 || op->cores != 1 || strlen(types) != 3 || types[0] != '?' ||
            types[1] != types[2] || size_of(types[2]) != extra[0]) {
            goto bad;
        }
    }
    else {
        memcpy(op->core, extra, sizeof op->core);
        op->core_args = read_numbers(core_strides, op->core_stride, MAX_CORE_ARGS);
        if (op->cores < 0 || op->core_args < 0 || (op->kind == ELEMENTWISE && op->cores > 0)) {
            goto bad;
        }
        if (find_loop(op, ufunc, types) < 0) {
            return -1;
        }
    }
    PyUFuncObject *u = op->kind == MASKED_COPY ? NULL : (PyUFuncObject *)ufunc;
    if (note_reach(op, u, types, self->reach, self->written) < 0) {
        goto bad;
    }
    coalesce(op);
    return 0;
bad:
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "an operation does not fit together");
    }
    return -1;
}

static PyObject *program_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *list;
    Py_ssize_t bases;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &list, &bases)) {
        return NULL;
    }
    if (bases < 0 || bases > MAX_BASES) {
        PyErr_SetString(PyExc_ValueError, "the number of arrays is out of range");
        return NULL;
    }
    Program *self = (Program *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->count = PyList_GET_SIZE(list);
    self->bases = bases;
    self->ops = PyMem_Calloc(self->count + 1, sizeof *self->ops);
    self->reach = PyMem_Calloc(bases + 1, sizeof *self->reach);
    self->written = PyMem_Calloc(bases + 1, 1);
    Py_INCREF(list);
    self->keep = list;
    if (self->ops == NULL || self->reach == NULL || self->written == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (read_op(self->ops + i, PyList_GET_ITEM(list, i), self) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static void program_dealloc(Program *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->ops);
    PyMem_Free(self->reach);
    PyMem_Free(self->written);
    Py_XDECREF(self->keep);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef program_methods[] = {
    {"run", (PyCFunction)(void (*)(void))program_run, METH_FASTCALL,
     "run(*groups): perform all operations on the arrays of these tuples, in order."},
    {"repeat", (PyCFunction)(void (*)(void))program_repeat, METH_FASTCALL,
     "repeat(times, advance, *groups): the same so often; arrays move on by so many bytes each."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot program_slots[] = {
    {Py_tp_doc, "Program(operations, bases): a straight line of NumPy's inner loops."},
    {Py_tp_new, program_new},
    {Py_tp_dealloc, program_dealloc},
    {Py_tp_methods, program_methods},
    {0, NULL},
};

static PyType_Spec program_spec = {
    "hessarray.backends._loops.Program", sizeof(Program), 0, Py_TPFLAGS_DEFAULT, program_slots,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_loops", "A straight line of NumPy's inner loops.", -1, NULL,
};

/* ---- erf and erfc, which NumPy lacks: the C library's, as ufuncs ------------------------------ */

#define UNARY_LOOP(name, type, function)                                                          \
    static void name(char **args, const npy_intp *count, const npy_intp *step, void *data)        \
    {                                                                                             \
        char *from = args[0], *to = args[1];                                                      \
        for (npy_intp i = 0; i < *count; i++, from += step[0], to += step[1]) {                   \
            *(type *)to = function(*(type *)from);                                                \
        }                                                                                         \
    }

UNARY_LOOP(float_erf, float, erff)
UNARY_LOOP(double_erf, double, erf)
UNARY_LOOP(float_erfc, float, erfcf)
UNARY_LOOP(double_erfc, double, erfc)

static PyUFuncGenericFunction erf_loops[] = {float_erf, double_erf};
static PyUFuncGenericFunction erfc_loops[] = {float_erfc, double_erfc};
static const char unary_types[] = {NPY_FLOAT, NPY_FLOAT, NPY_DOUBLE, NPY_DOUBLE};
static void *const no_data[] = {NULL, NULL};

static int add_ufunc(PyObject *m, const char *name, PyUFuncGenericFunction *loops, const char *doc)
{
    PyObject *u = PyUFunc_FromFuncAndData(loops, no_data, unary_types, 2, 1, 1, PyUFunc_None, name,
                                          doc, 0);
    if (u == NULL || PyModule_AddObject(m, name, u) < 0) {
        Py_XDECREF(u);
        return -1;
    }
    return 0;
}

/* ---- kernels: J diag(w) J^T, a curvature site's share of a Hessian, and A B and (A . S) B -------- */

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define HAS_KERNELS

/* Raise ValueError, or MemoryError where there is nothing to say. */
static void complain(const char *text)
{
    PyGILState_STATE state = PyGILState_Ensure();
    if (text == NULL) {
        PyErr_NoMemory();
    }
    else {
        PyErr_SetString(PyExc_ValueError, text);
    }
    PyGILState_Release(state);
}

#define MIX(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#define PASTE(a, b) PASTED(a, b)
#define PASTED(a, b) a##b
#define TO_2 0, 2
#define TO_4 TO_2, 4, 6
#define TO_8 TO_4, 8, 10, 12, 14
#define TO_16 TO_8, 16, 18, 20, 22, 24, 26, 28, 30
#define FROM_2 1, 3
#define FROM_4 FROM_2, 5, 7
#define FROM_8 FROM_4, 9, 11, 13, 15
#define FROM_16 FROM_8, 17, 19, 21, 23, 25, 27, 29, 31

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
enum { WITH_S = 1, WITH_T = 2 }; /* of a product or gram: operands that may be given */
enum { ADD, MULTIPLY, MULTIPLY_ADD };

#define MOST_DEPTH 256 /* rows of B at a time: the columns of a tile stay in the nearest caches */
#define MOST_PANELS 11 /* tiles of columns at a time: they fill half the second cache */
#define MOST_ROWS 96   /* rows of A at a time */

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,fma")))
#define AVX2 __attribute__((target("avx2,fma")))

#define KIND float_avx512
#define REAL float
#define BITS int32_t
#define TARGET AVX512
#define LANES 16
#define EVEN TO_16
#define ODD FROM_16
#define ROWS 4
#include "_kernels.h"

#define KIND double_avx512
#define REAL double
#define BITS int64_t
#define TARGET AVX512
#define LANES 8
#define EVEN TO_8
#define ODD FROM_8
#define ROWS 4
#include "_kernels.h"

#define KIND float_avx2
#define REAL float
#define BITS int32_t
#define TARGET AVX2
#define LANES 8
#define EVEN TO_8
#define ODD FROM_8
#define ROWS 2
#include "_kernels.h"

#define KIND double_avx2
#define REAL double
#define BITS int64_t
#define TARGET AVX2
#define LANES 4
#define EVEN TO_4
#define ODD FROM_4
#define ROWS 2
#include "_kernels.h"
#endif

#define KIND float_any
#define REAL float
#define BITS int32_t
#define TARGET 
#define LANES 4
#define EVEN TO_4
#define ODD FROM_4
#define ROWS 2
#include "_kernels.h"

#define KIND double_any
#define REAL double
#define BITS int64_t
#define TARGET 
#define LANES 2
#define EVEN TO_2
#define ODD FROM_2
#define ROWS 2
#include "_kernels.h"

static PyUFuncGenericFunction gram_loops[] = {float_any_gram, double_any_gram};
static PyUFuncGenericFunction matmul_loops[] = {float_any_matmul, double_any_matmul};
static PyUFuncGenericFunction entry_loops[] = {float_any_arithmetic, double_any_arithmetic};
static PyUFuncGenericFunction row_loops[] = {float_any_arithmetic_rows, double_any_arithmetic_rows};
static PyUFuncGenericFunction sum_loops[] = {float_any_product_sum, double_any_product_sum};
static PyUFuncGenericFunction tanh_loops[] = {float_any_tanh_sech2, double_any_tanh_sech2};
/* A ufunc of operands of one type; generalised, where there is a signature. */
static int add_kernel(PyObject *m, const char *name, PyUFuncGenericFunction *loops, intptr_t flags,
                      int operands, int results, const char *signature, const char *doc)
{
    static const char types[] = {
        NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,  NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE,
        NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,  NPY_DOUBLE, NPY_DOUBLE,
        NPY_DOUBLE, NPY_DOUBLE, NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,
        NPY_FLOAT,  NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE,
    };
    static const int first[] = {0, 6, 14}; /* of three, four and five arrays */
    static void *const data[][2] = {
        {NULL, NULL}, {(void *)1, (void *)1}, {(void *)2, (void *)2}, {(void *)3, (void *)3}};
    PyObject *u = PyUFunc_FromFuncAndDataAndSignature(loops, data[flags],
                                                      types + first[operands + results - 3], 2,
                                                      operands, results, PyUFunc_None, name, doc, 0,
                                                      signature);
    if (u == NULL || PyModule_AddObject(m, name, u) < 0) {
        Py_XDECREF(u);
        return -1;
    }
    return 0;
}

#define CHOOSE(kind)                                                                              \
    do {                                                                                          \
        gram_loops[0] = float_##kind##_gram, gram_loops[1] = double_##kind##_gram;                \
        matmul_loops[0] = float_##kind##_matmul, matmul_loops[1] = double_##kind##_matmul;        \
        entry_loops[0] = float_##kind##_arithmetic, entry_loops[1] = double_##kind##_arithmetic;  \
        row_loops[0] = float_##kind##_arithmetic_rows;                                            \
        row_loops[1] = double_##kind##_arithmetic_rows;                                           \
        sum_loops[0] = float_##kind##_product_sum, sum_loops[1] = double_##kind##_product_sum;    \
        tanh_loops[0] = float_##kind##_tanh_sech2, tanh_loops[1] = double_##kind##_tanh_sech2;    \
    } while (0)

/* The fastest of each kernel for this processor; its vectors' bytes where they are wide. */
static int choose_kernels(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
        CHOOSE(avx512);
        return 64;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        CHOOSE(avx2);
        return 32;
    }
#endif
    return 0;
}

static int add_kernels(PyObject *m)
{
    static const struct {
        const char *name, *signature, *doc;
        PyUFuncGenericFunction *loops;
        int operands, flags, results;
    } kernels[] = {
        {"gram", "(a,i),(i)->(a,a)", "gram(J, w): J diag(w) J^T, exactly symmetric.", gram_loops, 2,
         0},
        {"gram_plus", "(a,i),(i),(a,a)->(a,a)", "gram_plus(J, w, T): T + J diag(w) J^T.", gram_loops,
         3, WITH_T},
        {"multiply_add", NULL, "multiply_add(a, b, c): c + a b.", entry_loops, 3, MULTIPLY_ADD},
        {"multiply_add_rows", "(i),(i),(i)->(i)", "c + a b of a, b, c.", row_loops, 3, MULTIPLY_ADD},
        {"multiply_rows", "(i),(i)->(i)", "a b.", row_loops, 2, MULTIPLY},
        {"add_rows", "(i),(i)->(i)", "a + b.", row_loops, 2, ADD},
        {"product_sum", "(a,i),(a,i)->(i)", "Sums over a of x[a, i] y[a, i].", sum_loops, 2, 0},
        {"tanh_sech2", NULL, "tanh_sech2(z): tanh z and (1 / cosh z)^2.", tanh_loops, 1, 0, 2},
        {"product", "(m,k),(q)->(m,p)", "product(A, B, out): A B with packed B.", matmul_loops, 2, 0},
        {"product_scaled", "(m,k),(q),(m,k)->(m,p)",
         "product_scaled(A, B, S, out): (A . S) B with packed B.", matmul_loops, 3, WITH_S},
        {"product_plus", "(m,k),(q),(m,p)->(m,p)", "product_plus(A, B, T): T + A B with packed B.",
         matmul_loops, 3, WITH_T},
        {"product_scaled_plus", "(m,k),(q),(m,k),(m,p)->(m,p)",
         "product_scaled_plus(A, B, S, T): T + (A . S) B with packed B.", matmul_loops, 4,
         WITH_S + WITH_T},
    };
    int bytes = choose_kernels();
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (kernels[i].loops == matmul_loops && bytes == 0) { /* the BLAS library does better */
            continue;
        }
        if (add_kernel(m, kernels[i].name, kernels[i].loops, kernels[i].flags, kernels[i].operands,
                       kernels[i].results > 1 ? kernels[i].results : 1, kernels[i].signature,
                       kernels[i].doc) < 0) {
            return -1;
        }
    }
    return PyModule_AddIntConstant(m, "VECTOR", bytes);
}
#endif

PyMODINIT_FUNC PyInit__loops(void)
{
    import_array();
    import_umath();
    PyObject *m = PyModule_Create(&module);
    if (m == NULL) {
        return NULL;
    }
    PyObject *type = PyType_FromSpec(&program_spec);
    if (type == NULL || PyModule_AddObject(m, "Program", type) < 0) {
        Py_XDECREF(type);
        Py_DECREF(m);
        return NULL;
    }
    if (add_ufunc(m, "erf", erf_loops, "The error function.") < 0 ||
        add_ufunc(m, "erfc", erfc_loops, "1 - erf(x), without its cancellation.") < 0) {
        Py_DECREF(m);
        return NULL;
    }
#ifdef HAS_KERNELS
    if (add_kernels(m) < 0) {
        Py_DECREF(m);
        return NULL;
    }
#endif
    PyModule_AddIntConstant(m, "ELEMENTWISE", ELEMENTWISE);
    PyModule_AddIntConstant(m, "GENERALISED", GENERALISED);
    PyModule_AddIntConstant(m, "MASKED_COPY", MASKED_COPY);
    return m;
}
