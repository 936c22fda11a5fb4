/* Arrays for results, whose memory outlives them: the next ones need not ask the system for it.
 *
 * A large array's memory comes from the system in pages of zeros and goes back when the array does.
 * Where results are large, filling them with zeros takes as long as computing them. So blocks of
 * arrays that are gone are kept, up to MOST_KEPT bytes, for results of the same size; meanwhile the
 * system may take their pages (MADV_FREE) whenever anybody is short of memory. Blocks start with a
 * cache line. NumPy's hook for this (NEP 49) makes them ordinary arrays that own their data; it calls
 * with the interpreter lock.
 */

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)

#define HUGE_PAGE ((size_t)2 << 20)
#define LEAST_BLOCK ((size_t)1 << 20) /* smaller ones the C library keeps by itself */
#define MOST_BLOCKS 8
#define MOST_KEPT ((size_t)1 << 30)

typedef struct { /* before the data */
    size_t bytes; /* of the block, with this */
    char fill[64 - sizeof(size_t)];
} Header;

static Header *kept[MOST_BLOCKS];
static int blocks_kept;
static size_t bytes_kept;

/* Take a block out of those that are kept: the oldest is the first. */
static Header *taken(int i)
{
    Header *block = kept[i];
    bytes_kept -= block->bytes;
    blocks_kept--;
    memmove(kept + i, kept + i + 1, (blocks_kept - i) * sizeof *kept);
    return block;
}

static void *block_malloc(void *context, size_t size)
{
    if (size > SIZE_MAX / 2) {
        return NULL;
    }
    size_t bytes = (size + sizeof(Header) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    for (int i = blocks_kept - 1; i >= 0; i--) {
        if (kept[i]->bytes == bytes) {
            return taken(i) + 1;
        }
    }
    /* On a boundary of huge pages, or most of it would be in small ones. */
    char *memory = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    size_t before = -(uintptr_t)memory % HUGE_PAGE;
    if (before > 0) {
        munmap(memory, before);
    }
    munmap(memory + before + bytes, HUGE_PAGE - before);
    Header *block = (Header *)(memory + before);
    madvise(block, bytes, MADV_HUGEPAGE);
    block->bytes = bytes;
    return block + 1;
}

static void block_free(void *context, void *data, size_t size)
{
    if (data == NULL) {
        return;
    }
    Header *block = (Header *)data - 1;
    if (block->bytes > MOST_KEPT) {
        munmap(block, block->bytes);
        return;
    }
    while (blocks_kept == MOST_BLOCKS || block->bytes > MOST_KEPT - bytes_kept) {
        Header *oldest = taken(0);
        munmap(oldest, oldest->bytes);
    }
    /* All but the header's huge page: taking a part of one would cut it into small ones. */
    madvise((char *)block + HUGE_PAGE, block->bytes - HUGE_PAGE, MADV_FREE);
    bytes_kept += block->bytes;
    kept[blocks_kept++] = block;
}

static void *block_calloc(void *context, size_t count, size_t size)
{
    if (size > 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    void *data = block_malloc(context, count * size);
    return data == NULL ? NULL : memset(data, 0, count * size);
}

static void *block_realloc(void *context, void *data, size_t size)
{
    void *moved = block_malloc(context, size);
    if (moved != NULL && data != NULL) {
        size_t had = ((Header *)data)[-1].bytes - sizeof(Header);
        memcpy(moved, data, size < had ? size : had);
        block_free(context, data, 0);
    }
    return moved;
}

static PyDataMem_Handler block_handler = {
    "hessarray results", 1, {NULL, block_malloc, block_calloc, block_realloc, block_free}};
static PyObject *block_capsule;

/* Use our blocks for the arrays that are made next; what was used before, or NULL. */
static PyObject *use_blocks(void)
{
    if (block_capsule == NULL) {
        block_capsule = PyCapsule_New(&block_handler, "mem_handler", NULL);
    }
    return block_capsule == NULL ? NULL : PyDataMem_SetHandler(block_capsule);
}
#else
#define LEAST_BLOCK SIZE_MAX
static PyObject *use_blocks(void)
{
    return NULL;
}
#endif

static PyArrayObject *empty_result(PyObject *lengths, PyArray_Descr *dtype)
{
    npy_intp shape[NPY_MAXDIMS];
    double size = (double)PyDataType_ELSIZE(dtype);
    int axes = read_numbers(lengths, shape, NPY_MAXDIMS);
    for (int i = 0; i < axes; i++) {
        size *= shape[i] < 0 ? 0 : (double)shape[i];
    }
    if (axes < 0) {
        return NULL;
    }
    PyObject *before = size < (double)LEAST_BLOCK ? NULL : use_blocks();
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_INCREF(dtype);
    PyObject *array = PyArray_Empty(axes, shape, dtype, 0);
    if (before != NULL) {
        PyObject *type, *value, *trace; /* there may be no memory */
        PyErr_Fetch(&type, &value, &trace);
        PyObject *ours = PyDataMem_SetHandler(before);
        Py_DECREF(before);
        if (ours != NULL) {
            PyErr_Restore(type, value, trace);
            Py_DECREF(ours);
        }
        else {
            Py_CLEAR(array);
            Py_XDECREF(type);
            Py_XDECREF(value);
            Py_XDECREF(trace);
        }
    }
    return (PyArrayObject *)array;
}

/* New arrays of these shapes. */
static PyObject *empty_of(PyObject *shapes, PyArray_Descr *dtype)
{
    Py_ssize_t arrays = PyTuple_GET_SIZE(shapes);
    PyObject *found = PyTuple_New(arrays);
    for (Py_ssize_t i = 0; found != NULL && i < arrays; i++) {
        PyArrayObject *one = empty_result(PyTuple_GET_ITEM(shapes, i), dtype);
        if (one == NULL) {
            Py_CLEAR(found);
            break;
        }
        PyTuple_SET_ITEM(found, i, (PyObject *)one);
    }
    return found;
}

static PyObject *empty_results(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyTuple_Check(args[0]) || !PyArray_DescrCheck(args[1])) {
        PyErr_SetString(PyExc_TypeError, "empty takes a tuple of shapes, and a dtype");
        return NULL;
    }
    return empty_of(args[0], (PyArray_Descr *)args[1]);
}

/* The shapes of arrays, or NULL where they are none. */
static PyObject *shapes_of(PyObject *arrays)
{
    PyObject *found = PyTuple_New(PyTuple_GET_SIZE(arrays));
    for (Py_ssize_t i = 0; found != NULL && i < PyTuple_GET_SIZE(arrays); i++) {
        PyObject *array = PyTuple_GET_ITEM(arrays, i), *shape = NULL;
        if (PyArray_Check(array)) {
            shape = PyArray_IntTupleFromIntp(PyArray_NDIM((PyArrayObject *)array),
                                             PyArray_DIMS((PyArrayObject *)array));
        }
        else {
            PyErr_SetString(PyExc_TypeError, "arrays are expected");
        }
        if (shape == NULL) {
            Py_CLEAR(found);
            break;
        }
        PyTuple_SET_ITEM(found, i, shape);
    }
    return found;
}
