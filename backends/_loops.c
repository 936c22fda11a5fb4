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
    Py_ssize_t *ends; /* of each operation's group: those before it may be done at once */
    npy_intp *reach; /* of each base: bytes that the program reads or writes */
    char *written;   /* of each base: whether it writes there */
    PyObject *keep;  /* the ufuncs: their loops are used as long as the program lives */
} Program;

/* ---- running ------------------------------------------------------------------------------- */

#if defined(__GNUC__)
#define MAY_ALIAS __attribute__((may_alias))
#else
#define MAY_ALIAS
#endif

/* Without a branch: whether to copy is hard to guess. */
#define MASKED_COPY_LOOP(name, type)                                                              \
    typedef type name##_bits MAY_ALIAS;                                                           \
    static void name(char **p, npy_intp n, const npy_intp *step)                                  \
    {                                                                                             \
        const char *mask = p[0], *from = p[1];                                                    \
        char *to = p[2];                                                                          \
        if (step[0] == 1 && step[1] == sizeof(type) && step[2] == sizeof(type)) {                 \
            for (npy_intp i = 0; i < n; i++) {                                                    \
                name##_bits keep = (name##_bits)(mask[i] != 0) - 1;                               \
                name##_bits *at = (name##_bits *)to + i;                                          \
                *at = (*at & keep) | (((const name##_bits *)from)[i] & ~keep);                    \
            }                                                                                     \
            return;                                                                               \
        }                                                                                         \
        for (npy_intp i = 0; i < n; i++, mask += step[0], from += step[1], to += step[2]) {       \
            name##_bits keep = (name##_bits)(*mask != 0) - 1;                                     \
            *(name##_bits *)to = (*(name##_bits *)to & keep) | (*(const name##_bits *)from & ~keep); \
        }                                                                                         \
    }

MASKED_COPY_LOOP(masked_copy_4, uint32_t)
MASKED_COPY_LOOP(masked_copy_8, uint64_t)

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
        (op->itemsize == 4 ? masked_copy_4 : masked_copy_8)(p, n, step);
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

#include "_helpers.h"

static PyTypeObject *program_type;

/* A program with the arrays that it works on, from chunk to chunk. */
typedef struct {
    const Program *program;
    Py_ssize_t times;
    char **bases;
    npy_intp *starts, *steps; /* bytes: the first chunk in each array, and from one to the next */
} Chunks;

typedef struct {
    Py_ssize_t helpers, count, units; /* runs, and chunks of them */
    Chunks *runs;
    npy_intp room; /* bytes that each of the others' first bases, their work buffers, lie further on */
    char **space;  /* for each worker's bases */
    Py_ssize_t most;
} Job;

static void perform_chunk(const void *data, Py_ssize_t unit, int who)
{
    const Job *job = data;
    const Chunks *run = job->runs;
    for (; unit >= run->times; run++) {
        unit -= run->times;
    }
    char **bases = job->space + who * job->most;
    for (Py_ssize_t i = 0; i < run->program->bases; i++) {
        bases[i] = run->bases[i] + unit * run->steps[i];
    }
    bases[0] += who * job->room;
    for (Py_ssize_t i = 0; i < run->program->count; i++) {
        perform(run->program->ops + i, bases);
    }
}

static void perform_part(const void *data, Py_ssize_t unit, int who)
{
    const Chunks *run = data;
    perform(run->program->ops + unit, run->bases);
}

/* All operations in order; the groups among them by whoever has come. */
static const char *perform_shared(const Chunks *run, Py_ssize_t helpers)
{
    const Program *program = run->program;
    int shared = helpers_come(helpers, perform_part, run);
    for (Py_ssize_t i = 0; i < program->count;) {
        Py_ssize_t end = program->ends[i];
        if (shared && end > i + 1 && helpers_here()) {
            helpers_share(i, end);
            i = end;
        }
        else {
            perform(program->ops + i++, run->bases);
        }
    }
    return shared ? helpers_leave() : NULL;
}

/* All chunks in any order, by whoever has come; what went wrong, or NULL. */
static const char *perform_job(const Job *job)
{
    const char *trouble = NULL;
    if (job->units == 1) {
        trouble = perform_shared(job->runs, job->helpers);
    }
    else if (helpers_come(job->helpers, perform_chunk, job)) {
        helpers_share(0, job->units);
        trouble = helpers_leave();
    }
    else {
        for (Py_ssize_t unit = 0; unit < job->units; unit++) {
            perform_chunk(job, unit, 0);
        }
    }
    feclearexcept(FE_ALL_EXCEPT); /* overflow on the way to a right result is no news */
    return trouble;
}

/* The bases of a run: tuples of arrays, checked. The first chunk lies ``run->starts``
 * bytes further on, and the first array reaches ``more`` bytes further. */
static int read_bases(Chunks *run, PyObject *const *groups, Py_ssize_t count, double more)
{
    const Program *self = run->program;
    Py_ssize_t found = 0;
    for (Py_ssize_t g = 0; g < count; g++) {
        if (!PyTuple_Check(groups[g])) {
            PyErr_SetString(PyExc_TypeError, "a program runs on tuples of arrays");
            return -1;
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(groups[g]); i++) {
            PyObject *array = PyTuple_GET_ITEM(groups[g], i);
            if (found == self->bases || !PyArray_Check(array)) {
                PyErr_Format(PyExc_TypeError, "the program takes %zd arrays", self->bases);
                return -1;
            }
            PyArrayObject *base = (PyArrayObject *)array;
            double reach = (double)self->reach[found] + (double)run->starts[found] +
                           (double)run->steps[found] * (double)(run->times - 1) +
                           (found == 0 ? more : 0.0);
            if (!PyArray_IS_C_CONTIGUOUS(base) || (double)PyArray_NBYTES(base) < reach ||
                (self->written[found] && !PyArray_ISWRITEABLE(base))) {
                PyErr_Format(PyExc_ValueError,
                             "array %zd must be contiguous%s and hold all that the program reaches",
                             found, self->written[found] ? ", writeable" : "");
                return -1;
            }
            run->bases[found] = PyArray_BYTES(base) + run->starts[found];
            found++;
        }
    }
    if (found != self->bases) {
        PyErr_Format(PyExc_TypeError, "the program takes %zd arrays, got %zd", self->bases, found);
        return -1;
    }
    return 0;
}

static PyObject *finished(const char *trouble)
{
    if (trouble != NULL) {
        PyErr_SetString(*trouble ? PyExc_ValueError : PyExc_MemoryError, trouble);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static void release(Chunks *run)
{
    PyMem_Free(run->bases);
    PyMem_Free(run->starts);
    PyMem_Free(run->steps);
}

/* Space for so many bases, at the beginning of their arrays. */
static int reserve(Chunks *run, Py_ssize_t bases)
{
    run->bases = PyMem_Calloc(bases + 1, sizeof *run->bases);
    run->starts = PyMem_Calloc(bases + 1, sizeof *run->starts);
    run->steps = PyMem_Calloc(bases + 1, sizeof *run->steps);
    if (run->bases == NULL || run->starts == NULL || run->steps == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *program_run(Program *self, PyObject *const *args, Py_ssize_t count)
{
    Chunks run = {self, 1};
    const char *trouble = NULL;
    Py_ssize_t helpers = count < 1 ? -1 : PyLong_AsSsize_t(args[0]);
    if (helpers < 0 && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "run takes how many may help, and tuples of arrays");
    }
    if (helpers >= 0 && reserve(&run, self->bases) == 0 &&
        read_bases(&run, args + 1, count - 1, 0) == 0) {
        Py_BEGIN_ALLOW_THREADS
        trouble = perform_shared(&run, helpers);
        feclearexcept(FE_ALL_EXCEPT);
        Py_END_ALLOW_THREADS
    }
    release(&run);
    return finished(trouble);
}

static int read_bytes(PyObject *tuple, npy_intp *to, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        to[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(tuple, i));
        if (to[i] < 0) {
            return -1;
        }
    }
    return 0;
}

/* (program, times, starts, steps, literals) and the arrays of all runs. */
static int read_run(Chunks *run, PyObject *item, PyObject *const *groups, Py_ssize_t count,
                    double more)
{
    PyObject *program, *starts, *steps, *literals, *all[16];
    if (!PyTuple_Check(item) || count > 15 ||
        !PyArg_ParseTuple(item, "O!nO!O!O!", program_type, &program, &run->times, &PyTuple_Type,
                          &starts, &PyTuple_Type, &steps, &PyTuple_Type, &literals)) {
        goto bad;
    }
    run->program = (Program *)program;
    Py_ssize_t bases = run->program->bases;
    if (reserve(run, bases) < 0) {
        return -1;
    }
    if (run->times < 1 || run->times > INT32_MAX || bases < 1 || PyTuple_GET_SIZE(starts) != bases ||
        PyTuple_GET_SIZE(steps) != bases || read_bytes(starts, run->starts, bases) < 0 ||
        read_bytes(steps, run->steps, bases) < 0) {
        goto bad;
    }
    memcpy(all, groups, count * sizeof *all);
    all[count] = literals;
    return read_bases(run, all, count + 1, more);
bad:
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "a run is (program, times, starts, steps, literals)");
    }
    return -1;
}

static void release_job(Job *job)
{
    for (Py_ssize_t r = 0; r < job->count; r++) {
        release(job->runs + r);
    }
    PyMem_Free(job->runs);
    PyMem_Free(job->space);
}

/* helpers, room and runs, as perform takes them, on these tuples of arrays. */
static int read_job(Job *job, PyObject *const *args, PyObject *const *groups, Py_ssize_t count)
{
    Py_ssize_t helpers = PyLong_AsSsize_t(args[0]);
    job->room = helpers < 0 ? -1 : PyLong_AsSsize_t(args[1]);
    if (job->room < 0 || !PyTuple_Check(args[2])) {
        goto bad;
    }
    job->helpers = helpers < MOST_HELPERS ? helpers : MOST_HELPERS;
    job->runs = PyMem_Calloc(PyTuple_GET_SIZE(args[2]) + 1, sizeof *job->runs);
    if (job->runs == NULL) {
        goto no_memory;
    }
    while (job->count < PyTuple_GET_SIZE(args[2])) {
        Chunks *run = job->runs + job->count++;
        if (read_run(run, PyTuple_GET_ITEM(args[2], job->count - 1), groups, count,
                     (double)job->helpers * (double)job->room) < 0) {
            return -1;
        }
        job->most = run->program->bases > job->most ? run->program->bases : job->most;
        job->units += run->times;
        if (job->units > INT32_MAX) {
            goto bad;
        }
    }
    job->space = PyMem_Calloc((job->helpers + 1) * job->most + 1, sizeof *job->space);
    if (job->space != NULL) {
        return 0;
    }
no_memory:
    PyErr_NoMemory();
    return -1;
bad:
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "how many may help, bytes, and runs are expected");
    }
    return -1;
}

static PyObject *perform_runs(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Job job = {0};
    const char *trouble = NULL;
    if (count < 3) {
        PyErr_SetString(PyExc_TypeError, "perform takes how many may help, bytes, and runs");
    }
    else if (read_job(&job, args, args + 3, count - 3) == 0) {
        Py_BEGIN_ALLOW_THREADS
        trouble = perform_job(&job);
        Py_END_ALLOW_THREADS
    }
    release_job(&job);
    return finished(trouble);
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

/* The lengths of the groups, each a neighbour of the last. */
static int read_groups(Program *self, PyObject *lengths)
{
    Py_ssize_t i = 0;
    for (Py_ssize_t g = 0; lengths != NULL && g < PyTuple_GET_SIZE(lengths); g++) {
        Py_ssize_t length = PyLong_AsSsize_t(PyTuple_GET_ITEM(lengths, g));
        if (length < 1 || length > self->count - i) {
            PyErr_SetString(PyExc_ValueError, "the groups do not fit the operations");
            return -1;
        }
        for (Py_ssize_t end = i + length; i < end; i++) {
            self->ends[i] = end;
        }
    }
    return 0; /* the rest, if any: each alone */
}

static PyObject *program_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *list, *groups = NULL;
    Py_ssize_t bases;
    if (!PyArg_ParseTuple(args, "O!n|O!", &PyList_Type, &list, &bases, &PyTuple_Type, &groups)) {
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
    self->keep = PyList_AsTuple(list); /* which nobody changes: loops belong to its ufuncs */
    if (self->keep == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    self->count = PyTuple_GET_SIZE(self->keep);
    self->bases = bases;
    self->ops = PyMem_Calloc(self->count + 1, sizeof *self->ops);
    self->ends = PyMem_Calloc(self->count + 1, sizeof *self->ends);
    self->reach = PyMem_Calloc(bases + 1, sizeof *self->reach);
    self->written = PyMem_Calloc(bases + 1, 1);
    if (self->ops == NULL || self->ends == NULL || self->reach == NULL || self->written == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (read_op(self->ops + i, PyTuple_GET_ITEM(self->keep, i), self) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    }
    if (self->count > INT32_MAX || read_groups(self, groups) < 0) {
        Py_DECREF(self);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void program_dealloc(Program *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->ops);
    PyMem_Free(self->ends);
    PyMem_Free(self->reach);
    PyMem_Free(self->written);
    Py_XDECREF(self->keep);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef program_methods[] = {
    {"run", (PyCFunction)(void (*)(void))program_run, METH_FASTCALL,
     "run(helpers, *arrays): perform all operations on the arrays of these tuples, in order; so many "
     "threads may help with the groups among them."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot program_slots[] = {
    {Py_tp_doc, "Program(operations, bases, groups=()): a straight line of NumPy's inner loops."},
    {Py_tp_new, program_new},
    {Py_tp_dealloc, program_dealloc},
    {Py_tp_methods, program_methods},
    {0, NULL},
};

static PyType_Spec program_spec = {
    "hessarray.backends._loops.Program", sizeof(Program), 0, Py_TPFLAGS_DEFAULT, program_slots,
};

#include "_results.h"

/* ---- an evaluation that was prepared ----------------------------------------------------------- */

/* All that a call needs but its inputs: solvers call thousands of times with a sample each. */
typedef struct {
    PyObject_HEAD
    Job job;
    PyArray_Descr *dtype;
    PyObject *shapes, *result_shapes; /* of inputs and results */
    PyObject *names;                  /* of the results */
    Py_ssize_t first_result;          /* among the bases */
    PyObject *keep;                   /* programs, work buffer and constants */
    int busy;                         /* the work buffer is in use */
} Call;

static void call_dealloc(Call *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release_job(&self->job);
    Py_XDECREF(self->dtype);
    Py_XDECREF(self->shapes);
    Py_XDECREF(self->result_shapes);
    Py_XDECREF(self->names);
    Py_XDECREF(self->keep);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Whether these are arrays of such shapes and type, each in one piece. */
static int fitting(PyObject *arrays, PyObject *shapes, const PyArray_Descr *dtype)
{
    Py_ssize_t count = PyTuple_GET_SIZE(shapes);
    if (PyTuple_GET_SIZE(arrays) != count) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyArrayObject *a = (PyArrayObject *)PyTuple_GET_ITEM(arrays, i);
        PyObject *shape = PyTuple_GET_ITEM(shapes, i);
        if (!PyArray_CheckExact(a) || PyArray_DESCR(a) != dtype || !PyArray_ISCARRAY_RO(a) ||
            PyArray_NDIM(a) != PyTuple_GET_SIZE(shape)) {
            return 0;
        }
        for (int k = 0; k < PyArray_NDIM(a); k++) {
            if (PyArray_DIM(a, k) != PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, k))) {
                return 0;
            }
        }
    }
    return 1;
}

/* Call((helpers, room, runs), memory, inputs, constants, {name: result}): for arrays like these. */
static PyObject *call_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *job, *results, *groups[4];
    PyTypeObject *tuple = &PyTuple_Type;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!", tuple, &job, tuple, &groups[0], tuple, &groups[1], tuple,
                          &groups[2], &PyDict_Type, &results)) {
        return NULL;
    }
    PyObject *values = PyDict_Values(results);
    groups[3] = values == NULL ? NULL : PyList_AsTuple(values);
    Py_XDECREF(values);
    if (groups[3] == NULL) {
        return NULL;
    }
    Call *self = NULL;
    if (PyTuple_GET_SIZE(job) != 3 || PyTuple_GET_SIZE(groups[0]) != 1 ||
        PyTuple_GET_SIZE(groups[3]) < 1 || !PyArray_Check(PyTuple_GET_ITEM(groups[3], 0))) {
        PyErr_SetString(PyExc_ValueError, "a call takes (helpers, room, runs), and arrays");
        goto failed;
    }
    self = (Call *)type->tp_alloc(type, 0);
    if (self == NULL) {
        goto failed;
    }
    self->dtype = PyArray_DESCR((PyArrayObject *)PyTuple_GET_ITEM(groups[3], 0));
    Py_INCREF(self->dtype);
    self->first_result = 1 + PyTuple_GET_SIZE(groups[1]) + PyTuple_GET_SIZE(groups[2]);
    self->keep = PyTuple_Pack(3, PyTuple_GET_ITEM(job, 2), groups[0], groups[2]);
    self->names = PySequence_Tuple(results);
    self->shapes = shapes_of(groups[1]);
    self->result_shapes = shapes_of(groups[3]);
    if (self->keep == NULL || self->names == NULL || self->shapes == NULL ||
        self->result_shapes == NULL ||
        read_job(&self->job, &PyTuple_GET_ITEM(job, 0), groups, 4) < 0) {
        goto failed;
    }
    if (!fitting(groups[1], self->shapes, self->dtype) ||
        !fitting(groups[3], self->result_shapes, self->dtype)) {
        PyErr_SetString(PyExc_ValueError, "inputs and results are contiguous arrays of one type");
        goto failed;
    }
    Py_DECREF(groups[3]);
    return (PyObject *)self;
failed:
    Py_DECREF(groups[3]);
    Py_XDECREF(self);
    return NULL;
}

static PyObject *named(PyObject *names, PyObject *values)
{
    PyObject *found = PyDict_New();
    for (Py_ssize_t i = 0; found != NULL && i < PyTuple_GET_SIZE(names); i++) {
        if (PyDict_SetItem(found, PyTuple_GET_ITEM(names, i), PyTuple_GET_ITEM(values, i)) < 0) {
            Py_CLEAR(found);
        }
    }
    return found;
}

/* The results for such inputs by name; None for others, and while another thread is here. */
static PyObject *call_call(Call *self, PyObject *inputs, PyObject *kwargs)
{
    if (self->busy || kwargs != NULL || !fitting(inputs, self->shapes, self->dtype)) {
        Py_RETURN_NONE;
    }
    self->busy = 1; /* before anything that may let another thread run */
    PyObject *results = empty_of(self->result_shapes, self->dtype);
    if (results == NULL) {
        self->busy = 0;
        return NULL;
    }
    for (Py_ssize_t r = 0; r < self->job.count; r++) {
        const Chunks *run = self->job.runs + r;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(inputs); i++) {
            PyArrayObject *a = (PyArrayObject *)PyTuple_GET_ITEM(inputs, i);
            run->bases[1 + i] = PyArray_BYTES(a) + run->starts[1 + i];
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(results); i++) {
            PyArrayObject *a = (PyArrayObject *)PyTuple_GET_ITEM(results, i);
            Py_ssize_t at = self->first_result + i;
            run->bases[at] = PyArray_BYTES(a) + run->starts[at];
        }
    }
    const char *trouble;
    Py_BEGIN_ALLOW_THREADS
    trouble = perform_job(&self->job);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    PyObject *done = finished(trouble), *found = done == NULL ? NULL : named(self->names, results);
    Py_XDECREF(done);
    Py_DECREF(results);
    return found;
}

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "Call((helpers, room, runs), memory, inputs, constants, {name: result}): the function "
                "that performs these runs on inputs of the same shapes and type. It returns new results "
                "by name, or None where the inputs are others or another thread is inside."},
    {Py_tp_new, call_new},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_call, call_call},
    {0, NULL},
};

static PyType_Spec call_spec = {
    "hessarray.backends._loops.Call", sizeof(Call), 0, Py_TPFLAGS_DEFAULT, call_slots,
};

static PyObject *address(PyObject *module, PyObject *array)
{
    if (!PyArray_Check(array)) {
        PyErr_SetString(PyExc_TypeError, "an array is expected");
        return NULL;
    }
    return PyLong_FromVoidPtr(PyArray_DATA((PyArrayObject *)array));
}

static PyMethodDef module_methods[] = {
    {"address", address, METH_O, "address(array): of its first entry."},
    {"empty", (PyCFunction)(void (*)(void))empty_results, METH_FASTCALL,
     "empty(shapes, dtype): a tuple of arrays; large ones take the memory of earlier ones."},
    {"perform", (PyCFunction)(void (*)(void))perform_runs, METH_FASTCALL,
     "perform(helpers, room, runs, *arrays): programs on chunk after chunk, in any order; so many "
     "threads may help, each with a work buffer (the first array) so many bytes after the last one's. "
     "A run is (program, times, bytes from each array's beginning to the first chunk, bytes from one "
     "to the next, tuple of the last arrays)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_loops", "A straight line of NumPy's inner loops.", -1, module_methods,
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
    if (HELPER_TROUBLE(text)) {
        return;
    }
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
#define UNROLL _Pragma("GCC unroll 32")
#endif
enum { WITH_S = 1, WITH_T = 2 }; /* of a product or gram: operands that may be given */
enum { ADD, MULTIPLY, MULTIPLY_ADD };
enum { TANH, SIGMOID, SILU };

#define MOST_DEPTH 256 /* rows of B at a time: the columns of a tile stay in the nearest caches */
#define MOST_PANELS 11 /* tiles of columns at a time: they fill half the second cache */
#define MOST_ROWS 96   /* rows of A at a time */
#define MOST_FILLED 128 /* directions whose results may be made where vectors fit, and copied */

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
#define SIDE 5
#include "_kernels.h"

#define KIND double_avx512
#define REAL double
#define BITS int64_t
#define TARGET AVX512
#define LANES 8
#define EVEN TO_8
#define ODD FROM_8
#define ROWS 4
#define SIDE 5
#include "_kernels.h"

#define KIND float_avx2
#define REAL float
#define BITS int32_t
#define TARGET AVX2
#define LANES 8
#define EVEN TO_8
#define ODD FROM_8
#define ROWS 2
#define SIDE 3
#include "_kernels.h"

#define KIND double_avx2
#define REAL double
#define BITS int64_t
#define TARGET AVX2
#define LANES 4
#define EVEN TO_4
#define ODD FROM_4
#define ROWS 2
#define SIDE 3
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
#define SIDE 3
#include "_kernels.h"

#define KIND double_any
#define REAL double
#define BITS int64_t
#define TARGET 
#define LANES 2
#define EVEN TO_2
#define ODD FROM_2
#define ROWS 2
#define SIDE 3
#include "_kernels.h"

static PyUFuncGenericFunction gram_loops[] = {float_any_gram, double_any_gram};
static PyUFuncGenericFunction grams_loops[] = {float_any_grams, double_any_grams};
static PyUFuncGenericFunction matmul_loops[] = {float_any_matmul, double_any_matmul};
static PyUFuncGenericFunction dots_loops[] = {float_any_row_dots, double_any_row_dots};
static PyUFuncGenericFunction entry_loops[] = {float_any_arithmetic, double_any_arithmetic};
static PyUFuncGenericFunction row_loops[] = {float_any_arithmetic_rows, double_any_arithmetic_rows};
static PyUFuncGenericFunction sum_loops[] = {float_any_product_sum, double_any_product_sum};
static PyUFuncGenericFunction tanh_loops[] = {float_any_tanh, double_any_tanh};
static PyUFuncGenericFunction sigmoid_loops[] = {float_any_sigmoid, double_any_sigmoid};
static PyUFuncGenericFunction silu_loops[] = {float_any_silu, double_any_silu};

/* A ufunc of operands of one type; generalised, where there is a signature. */
static int add_kernel(PyObject *m, const char *name, PyUFuncGenericFunction *loops, intptr_t flags,
                      int operands, int results, const char *signature, const char *doc)
{
    static const char types[] = {
        NPY_FLOAT,  NPY_FLOAT,  NPY_DOUBLE, NPY_DOUBLE, NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,
        NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,
        NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_FLOAT,  NPY_FLOAT,  NPY_FLOAT,
        NPY_FLOAT,  NPY_FLOAT,  NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE, NPY_DOUBLE,
    };
    static const int first[] = {0, 4, 10, 18}; /* of two, three, four and five arrays */
    static void *const data[][2] = {
        {NULL, NULL},           {(void *)1, (void *)1}, {(void *)2, (void *)2}, {(void *)3, (void *)3},
        {(void *)4, (void *)4}, {(void *)5, (void *)5}, {(void *)6, (void *)6}, {(void *)7, (void *)7}};
    PyObject *u = PyUFunc_FromFuncAndDataAndSignature(loops, data[flags],
                                                      types + first[operands + results - 2], 2,
                                                      operands, results, PyUFunc_None, name, doc, 0,
                                                      signature);
    if (u == NULL || PyModule_AddObject(m, name, u) < 0) {
        Py_XDECREF(u);
        return -1;
    }
    return 0;
}

/* The activation with each choice among s, s' and s'': name_0, name_01, name_012, name_1, ... */
static int add_slopes(PyObject *m, const char *const *names, PyUFuncGenericFunction *loops)
{
    for (int orders = 1; orders < 8; orders++) {
        int results = (orders & 1) + (orders >> 1 & 1) + (orders >> 2);
        if (add_kernel(m, names[orders - 1], loops, orders, 1, results, NULL,
                       "The function and its derivatives of these orders.") < 0) {
            return -1;
        }
    }
    return 0;
}

#define CHOOSE(kind)                                                                              \
    do {                                                                                          \
        gram_loops[0] = float_##kind##_gram, gram_loops[1] = double_##kind##_gram;                \
        grams_loops[0] = float_##kind##_grams, grams_loops[1] = double_##kind##_grams;            \
        dots_loops[0] = float_##kind##_row_dots, dots_loops[1] = double_##kind##_row_dots;        \
        matmul_loops[0] = float_##kind##_matmul, matmul_loops[1] = double_##kind##_matmul;        \
        entry_loops[0] = float_##kind##_arithmetic, entry_loops[1] = double_##kind##_arithmetic;  \
        row_loops[0] = float_##kind##_arithmetic_rows;                                            \
        row_loops[1] = double_##kind##_arithmetic_rows;                                           \
        sum_loops[0] = float_##kind##_product_sum, sum_loops[1] = double_##kind##_product_sum;    \
        tanh_loops[0] = float_##kind##_tanh, tanh_loops[1] = double_##kind##_tanh;                \
        sigmoid_loops[0] = float_##kind##_sigmoid, sigmoid_loops[1] = double_##kind##_sigmoid;    \
        silu_loops[0] = float_##kind##_silu, silu_loops[1] = double_##kind##_silu;                \
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
        int operands, flags;
    } kernels[] = {
        {"gram", "(a,i),(i)->(a,a)", "gram(J, w): J diag(w) J^T, exactly symmetric.", gram_loops, 2,
         0},
        {"grams", "(a,i),(m,i)->(a,a,m)", "grams(J, w): J diag(w) J^T for each of the w.",
         grams_loops, 2, 0},
        {"gram_plus", "(a,i),(i),(a,a)->(a,a)", "gram_plus(J, w, T): T + J diag(w) J^T.", gram_loops,
         3, WITH_T},
        {"multiply_add", NULL, "multiply_add(a, b, c): c + a b.", entry_loops, 3, MULTIPLY_ADD},
        {"multiply_add_rows", "(i),(i),(i)->(i)", "c + a b of a, b, c.", row_loops, 3, MULTIPLY_ADD},
        {"multiply_rows", "(i),(i)->(i)", "a b.", row_loops, 2, MULTIPLY},
        {"add_rows", "(i),(i)->(i)", "a + b.", row_loops, 2, ADD},
        {"product_sum", "(a,i),(a,i)->(i)", "Sums over a of x[a, i] y[a, i].", sum_loops, 2, 0},
        {"product", "(m,k),(q)->(m,p)", "product(A, B, out): A B with packed B.", matmul_loops, 2, 0},
        {"product_scaled", "(m,k),(q),(m,k)->(m,p)",
         "product_scaled(A, B, S, out): (A . S) B with packed B.", matmul_loops, 3, WITH_S},
        {"product_plus", "(m,k),(q),(m,p)->(m,p)", "product_plus(A, B, T): T + A B with packed B.",
         matmul_loops, 3, WITH_T},
        {"product_scaled_plus", "(m,k),(q),(m,k),(m,p)->(m,p)",
         "product_scaled_plus(A, B, S, T): T + (A . S) B with packed B.", matmul_loops, 4,
         WITH_S + WITH_T},
        {"row_dots", "(m,p),(q)->(m,k)", "row_dots(A, B, out): A B^T with packed B.", dots_loops, 2, 0},
        {"row_dots_scaled", "(m,p),(q),(m,p)->(m,k)",
         "row_dots_scaled(A, B, S, out): (A . S) B^T with packed B.", dots_loops, 3, WITH_S},
        {"row_dots_plus", "(m,p),(q),(m,k)->(m,k)",
         "row_dots_plus(A, B, T, out): T + A B^T with packed B.", dots_loops, 3, WITH_T},
        {"row_dots_scaled_plus", "(m,p),(q),(m,p),(m,k)->(m,k)",
         "row_dots_scaled_plus(A, B, S, T, out): T + (A . S) B^T with packed B.", dots_loops, 4,
         WITH_S + WITH_T},
    };
    int bytes = choose_kernels();
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        PyUFuncGenericFunction *loops = kernels[i].loops;
        if (bytes == 0 && (loops == matmul_loops || loops == dots_loops)) {
            continue; /* the BLAS library does better */
        }
        if (add_kernel(m, kernels[i].name, kernels[i].loops, kernels[i].flags, kernels[i].operands, 1,
                       kernels[i].signature, kernels[i].doc) < 0) {
            return -1;
        }
    }
#define NAMES(f) {f "_0", f "_1", f "_01", f "_2", f "_02", f "_12", f "_012"}
    static const char *const names[][7] = {NAMES("tanh"), NAMES("sigmoid"), NAMES("silu")};
    PyUFuncGenericFunction *const loops[] = {tanh_loops, sigmoid_loops, silu_loops};
    for (int f = 0; f < 3; f++) {
        if (add_slopes(m, names[f], loops[f]) < 0) {
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
    program_type = (PyTypeObject *)type; /* the module keeps it */
    if (type == NULL || PyModule_AddObject(m, "Program", type) < 0) {
        Py_XDECREF(type);
        Py_DECREF(m);
        return NULL;
    }
    type = PyType_FromSpec(&call_spec);
    if (type == NULL || PyModule_AddObject(m, "Call", type) < 0) {
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
    PyModule_AddIntConstant(m, "MOST_HELPERS", MOST_HELPERS);
    return m;
}
