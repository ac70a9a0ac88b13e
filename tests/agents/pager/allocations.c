/* A program that asks for memory in every way there is, and checks what it gets: run under the shim.
 *
 *     allocations family | threads SECONDS | fork | full BYTES | none | direct PATH (standard input: opened for direct I/O)
 *
 * It prints "right" at the end; anything else is a fault, told on standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: not so: %s (errno %d)\n", __LINE__, #condition, errno);   \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

/* Whether an address lies in far memory, by the kernel's own list. */
static int is_far(const void *address) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int found = 0;
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx", &begin, &end) == 2 && (uintptr_t)address >= begin && (uintptr_t)address < end)
            found = strstr(line, "memfd:tmem-far") != NULL;
    }
    fclose(maps);
    return found;
}

static void fill(void *memory, size_t bytes, uint64_t seed) {
    uint64_t *words = memory;
    for (size_t at = 0; at < bytes / 8; at++) words[at] = seed * 1000003 + at / 7;
}

static int filled(const void *memory, size_t bytes, uint64_t seed) {
    const uint64_t *words = memory;
    for (size_t at = 0; at < bytes / 8; at++)
        if (words[at] != seed * 1000003 + at / 7) return 0;
    return 1;
}

static int zero(const void *memory, size_t bytes) {
    const uint64_t *words = memory;
    for (size_t at = 0; at < bytes / 8; at++)
        if (words[at]) return 0;
    return 1;
}

static void family(void) {
    char *small = malloc(1000);
    CHECK(small && !is_far(small));
    char *large = malloc(3 * MIB);
    CHECK(large && is_far(large) && malloc_usable_size(large) >= 3 * MIB);
    fill(large, 3 * MIB, 1);

    /* Freed memory comes back as zeros where that is promised. */
    char *other = malloc(5 * MIB);
    fill(other, 5 * MIB, 2);
    free(other);
    other = calloc(5, MIB);
    CHECK(is_far(other) && zero(other, 5 * MIB));

    /* realloc: up, down, in place, across the threshold, both ways. */
    fill(other, 5 * MIB, 3);
    other = realloc(other, 20 * MIB);
    CHECK(is_far(other) && filled(other, 5 * MIB, 3));
    fill(other, 20 * MIB, 4);
    char *same = realloc(other, 8 * MIB);
    CHECK(same == other && filled(other, 8 * MIB, 4));
    CHECK(filled(large, 3 * MIB, 1));
    small = realloc(small, 2 * MIB);
    CHECK(is_far(small));
    fill(small, 2 * MIB, 5);
    small = realloc(small, 4096);
    CHECK(!is_far(small) && filled(small, 4096, 5));
    free(small);
    CHECK(realloc(other, 0) == NULL);
    other = realloc(NULL, 2 * MIB);
    CHECK(is_far(other));
    free(other);
    errno = 0;
    volatile size_t many = SIZE_MAX / 2;
    CHECK(calloc(many, 4) == NULL && errno == ENOMEM);
    errno = EINTR;
    free(large);
    CHECK(errno == EINTR);

    /* Alignments. */
    for (size_t alignment = 8; alignment <= 8 * MIB; alignment *= 4) {
        void *aligned = NULL;
        CHECK(posix_memalign(&aligned, alignment, 2 * MIB) == 0 && is_far(aligned) && (uintptr_t)aligned % alignment == 0);
        fill(aligned, 2 * MIB, alignment);
        void *second = aligned_alloc(alignment, 2 * MIB);
        CHECK(is_far(second) && (uintptr_t)second % alignment == 0 && filled(aligned, 2 * MIB, alignment));
        free(aligned);
        free(second);
    }
    void *odd = NULL;
    CHECK(posix_memalign(&odd, 24, 2 * MIB) == EINVAL);
    void *paged[] = {valloc(2 * MIB), pvalloc(2 * MIB + 1), memalign(64, 2 * MIB)};
    for (int at = 0; at < 3; at++) {
        CHECK(is_far(paged[at]));
        free(paged[at]);
    }

    /* Anonymous mappings, as a whole and in parts. */
    char *mapped = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(is_far(mapped) && zero(mapped, 8 * MIB));
    fill(mapped, 8 * MIB, 6);
    CHECK(munmap(mapped + 2 * MIB, 2 * MIB) == 0);
    CHECK(filled(mapped, 2 * MIB, 6));
    CHECK(madvise(mapped, MIB, MADV_HUGEPAGE) == 0);
    CHECK(madvise(mapped, 2 * MIB, MADV_DONTNEED) == 0 && zero(mapped, 2 * MIB));
    errno = 0;
    CHECK(madvise(mapped, MIB, MADV_DOFORK) == -1 && errno == EINVAL);
    CHECK(mlock(mapped, MIB) == -1 && errno == ENOMEM);
    CHECK(mlockall(MCL_CURRENT) == -1 && errno == ENOMEM);
    CHECK(munmap(mapped, 2 * MIB) == 0 && munmap(mapped + 4 * MIB, 4 * MIB) == 0);
    mapped = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(is_far(mapped) && zero(mapped, 4 * MIB));
    fill(mapped, 4 * MIB, 7);
    mapped = mremap(mapped, 4 * MIB, 16 * MIB, MREMAP_MAYMOVE);
    CHECK(is_far(mapped) && filled(mapped, 4 * MIB, 7) && zero(mapped + 4 * MIB, 12 * MIB));
    mapped = mremap(mapped, 16 * MIB, 2 * MIB, 0);
    CHECK(is_far(mapped) && filled(mapped, 2 * MIB, 7));
    CHECK(munmap(mapped, 2 * MIB) == 0);

    /* What is not ours stays as it was. */
    char *shared = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED && !is_far(shared));
    CHECK(madvise(shared, 2 * MIB, MADV_DONTNEED) == 0 && munmap(shared, 2 * MIB) == 0);
    char *guard = mmap(NULL, 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(guard != MAP_FAILED && !is_far(guard) && mremap(guard, 2 * MIB, 4 * MIB, MREMAP_MAYMOVE) != MAP_FAILED);
}

struct worker {
    pthread_t thread;
    unsigned seed;
    double until;
};

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void *work(void *argument) {
    struct worker *worker = argument;
    enum { SLOTS = 6 };
    struct {
        char *memory;
        size_t bytes;
        uint64_t seed;
    } slots[SLOTS] = {{0}};
    while (now() < worker->until) {
        int at = rand_r(&worker->seed) % SLOTS;
        if (slots[at].memory) CHECK(filled(slots[at].memory, slots[at].bytes, slots[at].seed));
        size_t bytes = (size_t)(rand_r(&worker->seed) % 1500 + 1) * 4096;
        if (rand_r(&worker->seed) % 3 == 0 && slots[at].memory) {
            slots[at].memory = realloc(slots[at].memory, bytes);
            CHECK(slots[at].memory);
            CHECK(filled(slots[at].memory, bytes < slots[at].bytes ? bytes : slots[at].bytes, slots[at].seed));
        } else {
            free(slots[at].memory);
            slots[at].memory = rand_r(&worker->seed) % 2 ? calloc(bytes, 1) : malloc(bytes);
            CHECK(slots[at].memory);
        }
        slots[at].bytes = bytes;
        slots[at].seed = (uint64_t)rand_r(&worker->seed);
        fill(slots[at].memory, bytes, slots[at].seed);
    }
    for (int at = 0; at < SLOTS; at++) {
        if (slots[at].memory) CHECK(filled(slots[at].memory, slots[at].bytes, slots[at].seed));
        free(slots[at].memory);
    }
    return NULL;
}

static void threads(double seconds) {
    struct worker workers[4];
    for (unsigned at = 0; at < 4; at++) {
        workers[at].seed = at + 1;
        workers[at].until = now() + seconds;
        CHECK(pthread_create(&workers[at].thread, NULL, work, &workers[at]) == 0);
    }
    for (int at = 0; at < 4; at++) pthread_join(workers[at].thread, NULL);
}

static int child(void (*what)(char *), char *memory) {
    pid_t pid = fork();
    if (!pid) {
        what(memory);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static void touches(char *memory) { memory[0]++; }

static void lives(char *memory) {
    free(memory); /* its parent's: nothing happens */
    char *own = calloc(8, MIB);
    CHECK(own && is_far(own) && zero(own, 8 * MIB));
    CHECK(own + 8 * MIB <= memory || own >= memory + 8 * MIB);
    fill(own, 8 * MIB, 9);
    CHECK(filled(own, 8 * MIB, 9));
    free(own);
}

static void execs(char *memory) {
    (void)memory;
    execl("/bin/sh", "sh", "-c", "exit 5", (char *)NULL);
}

static void forks(void) {
    char *memory = malloc(8 * MIB);
    fill(memory, 8 * MIB, 8);
    int status = child(touches, memory);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK(child(lives, memory) == 0);
    status = child(execs, memory);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    CHECK(system("exit 6") >> 8 == 6);
    CHECK(filled(memory, 8 * MIB, 8));
    free(memory);
}

int main(int count, char **words) {
    CHECK(count >= 2);
    if (!strcmp(words[1], "family")) family();
    else if (!strcmp(words[1], "threads")) threads(atof(words[2]));
    else if (!strcmp(words[1], "fork")) forks();
    else if (!strcmp(words[1], "full")) {
        errno = 0;
        CHECK(malloc(strtoull(words[2], NULL, 10)) == NULL && errno == ENOMEM);
        char *fits = malloc(2 * MIB);
        CHECK(is_far(fits));
    } else if (!strcmp(words[1], "none")) {
        errno = 0;
        CHECK(malloc(2 * MIB) == NULL && errno == ENOMEM);
        CHECK(malloc(1000) != NULL);
    } else if (!strcmp(words[1], "direct")) {
        int both[2];
        CHECK(open(words[2], O_RDONLY | O_DIRECT) == -1 && errno == EINVAL);
        CHECK(fcntl(0, F_GETFL) & O_DIRECT);
        CHECK(pipe2(both, O_DIRECT) == 0);
        CHECK(is_far(malloc(2 * MIB)));
        CHECK(!(fcntl(0, F_GETFL) & O_DIRECT));
        CHECK(fcntl(0, F_SETFL, O_DIRECT) == -1 && errno == EINVAL);
        CHECK(fcntl(both[1], F_GETFL) & O_DIRECT); /* of a pipe it means something else */
        errno = 0;
        CHECK(open(words[2], O_RDONLY | O_DIRECT) == -1 && errno == EINVAL);
        CHECK(open(words[2], O_RDONLY) >= 0);
    } else return 2;
    puts("right");
    return 0;
}
