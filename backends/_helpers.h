/* Threads that work on a program beside the thread that runs it.
 *
 * Solvers call with one sample, in a loop: their calls last as long as it takes to wake a thread. So a
 * helper looks for work for a while after the last before it sleeps; nobody waits for one that has not
 * come yet; and one caller at a time has the helpers, others do without. Work comes in units that do
 * not depend on each other: whoever is free takes the next. Helpers never touch the interpreter.
 */

/* Do a unit of a job; ``who``: 0 for the caller, 1, 2, ... for helpers. */
typedef void (*Worker)(const void *job, Py_ssize_t unit, int who);

#if defined(_WIN32) || !defined(__GNUC__)

#define HELPER_TROUBLE(text) 0
#define MOST_HELPERS 0

static int helpers_come(Py_ssize_t wanted, Worker work, const void *job)
{
    return 0;
}
static int helpers_here(void)
{
    return 0;
}
static void helpers_share(Py_ssize_t first, Py_ssize_t end) {}
static const char *helpers_leave(void)
{
    return NULL;
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

#define MOST_HELPERS 63
#define LOOKING 100000    /* nanoseconds */
#define PATIENCE 2000     /* looks at a value, before others may have the processor */
#define OPEN ((int32_t)1)
#define INSIDE ((int32_t)2) /* for each helper */
#define ALONE __attribute__((aligned(128))) /* on cache lines of its own */

static struct {
    ALONE uint32_t turn; /* moves whenever helpers are wanted */
    int asleep;
    ALONE int32_t room; /* OPEN: they may come; and who is INSIDE */
    ALONE uint64_t ticket; /* the next unit to take, and 2^32 times the end of those to be done now */
    ALONE int64_t left;    /* units that are not done */
    ALONE int busy;
    Py_ssize_t started, wanted;
    Worker work;
    const void *job;
    const char *trouble; /* of a kernel in a helper; "" where there is no memory */
    pthread_mutex_t lock;
    pthread_cond_t wake;
} crew = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static __thread int helping; /* the helper's number */

#define HELPER_TROUBLE(text)                                                                      \
    (helping && (__atomic_store_n(&crew.trouble, (text) == NULL ? "" : (text), __ATOMIC_RELEASE), 1))

static void look_again(unsigned *looks)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
    if (++*looks % PATIENCE == 0) {
        sched_yield();
    }
}

static void take_units(void)
{
    uint64_t ticket = __atomic_load_n(&crew.ticket, __ATOMIC_ACQUIRE);
    while ((uint32_t)ticket < ticket >> 32) {
        if (__atomic_compare_exchange_n(&crew.ticket, &ticket, ticket + 1, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            crew.work(crew.job, (uint32_t)ticket, helping);
            __atomic_fetch_sub(&crew.left, 1, __ATOMIC_ACQ_REL);
            ticket = __atomic_load_n(&crew.ticket, __ATOMIC_ACQUIRE);
        }
    }
}

/* Until the turn moves on: a short time awake, then asleep. */
static uint32_t next_turn(uint32_t seen)
{
    struct timespec start, now;
    unsigned looks = 0;
    uint32_t turn;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 16; i++) {
            turn = __atomic_load_n(&crew.turn, __ATOMIC_SEQ_CST);
            if (turn != seen) {
                return turn;
            }
            look_again(&looks);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < LOOKING);
    pthread_mutex_lock(&crew.lock);
    __atomic_fetch_add(&crew.asleep, 1, __ATOMIC_SEQ_CST);
    while ((turn = __atomic_load_n(&crew.turn, __ATOMIC_SEQ_CST)) == seen) {
        pthread_cond_wait(&crew.wake, &crew.lock);
    }
    __atomic_fetch_sub(&crew.asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&crew.lock);
    return turn;
}

static int still_open(void)
{
    return __atomic_load_n(&crew.room, __ATOMIC_ACQUIRE) & OPEN;
}

static void *help(void *number)
{
    uint32_t turn = 0; /* what has gone by is no longer open */
    helping = (int)(intptr_t)number;
#if defined(__linux__)
    prctl(PR_SET_NAME, "hessarray");
#endif
    for (;;) {
        turn = next_turn(turn);
        int32_t room = __atomic_load_n(&crew.room, __ATOMIC_ACQUIRE);
        while (room & OPEN && !__atomic_compare_exchange_n(&crew.room, &room, room + INSIDE, 0,
                                                           __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        }
        if (!(room & OPEN)) {
            continue;
        }
        for (unsigned looks = 0; helping <= crew.wanted && still_open();) {
            take_units();
            look_again(&looks);
        }
        __atomic_fetch_sub(&crew.room, INSIDE, __ATOMIC_ACQ_REL);
    }
    return NULL;
}

/* A fork has this thread only. */
static void forget_helpers(void)
{
    memset(&crew, 0, sizeof crew);
    pthread_mutex_init(&crew.lock, NULL);
    pthread_cond_init(&crew.wake, NULL);
}

static void start_helpers(Py_ssize_t wanted)
{
    static int registered;
    if (!registered) {
        registered = 1;
        pthread_atfork(NULL, NULL, forget_helpers);
    }
    sigset_t all, before; /* signals are for the threads of the interpreter */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; crew.started < wanted && crew.started < MOST_HELPERS; crew.started++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, help, (void *)(intptr_t)(crew.started + 1)) != 0) {
            break;
        }
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Whether the caller has the helpers from now on; no more than MOST_HELPERS come. */
static int helpers_come(Py_ssize_t wanted, Worker work, const void *job)
{
    int nobody = 0;
    if (wanted < 1 || !__atomic_compare_exchange_n(&crew.busy, &nobody, 1, 0, __ATOMIC_ACQ_REL,
                                                   __ATOMIC_RELAXED)) {
        return 0;
    }
    if (crew.started < wanted) {
        start_helpers(wanted);
    }
    crew.wanted = wanted;
    crew.work = work;
    crew.job = job;
    crew.trouble = NULL;
    __atomic_store_n(&crew.ticket, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&crew.room, OPEN, __ATOMIC_RELEASE);
    __atomic_fetch_add(&crew.turn, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&crew.asleep, __ATOMIC_SEQ_CST) > 0) {
        pthread_mutex_lock(&crew.lock);
        pthread_cond_broadcast(&crew.wake);
        pthread_mutex_unlock(&crew.lock);
    }
    return 1;
}

static int helpers_here(void)
{
    return __atomic_load_n(&crew.room, __ATOMIC_ACQUIRE) > OPEN;
}

/* Units first, ..., end - 1, by whoever is here. */
static void helpers_share(Py_ssize_t first, Py_ssize_t end)
{
    unsigned looks = 0;
    __atomic_store_n(&crew.left, end - first, __ATOMIC_RELAXED);
    __atomic_store_n(&crew.ticket, (uint64_t)end << 32 | (uint64_t)first, __ATOMIC_RELEASE);
    take_units();
    while (__atomic_load_n(&crew.left, __ATOMIC_ACQUIRE) > 0) {
        look_again(&looks);
    }
}

/* What went wrong in a helper, or NULL; the arrays are the caller's again. */
static const char *helpers_leave(void)
{
    unsigned looks = 0;
    __atomic_fetch_and(&crew.room, ~OPEN, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&crew.room, __ATOMIC_ACQUIRE) != 0) {
        look_again(&looks);
    }
    const char *trouble = __atomic_load_n(&crew.trouble, __ATOMIC_ACQUIRE);
    __atomic_store_n(&crew.busy, 0, __ATOMIC_RELEASE);
    return trouble;
}
#endif
