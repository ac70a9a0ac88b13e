/* The preload shim: large allocations of an unmodified program become far memory.
 *
 * Owns: the allocator of the region, and the calls of the C library that hand memory out, take it back, or change it. malloc and its
 * like from a threshold on, and anonymous private mmap, are served from one region: a shared mapping of a file that the pager's
 * agent has too, registered with userfaultfd. The region is asked for when the first such allocation comes, from whoever listens
 * at $TMEM_PAGER_SOCKET; a process that allocates little has none.
 *
 * What differs from ordinary memory, and what is done about it
 *   fork       the region stays with its process (MADV_DONTFORK). A child that touches it gets SIGSEGV: the addresses stay reserved. The
 *              child's own large allocations get a region of their own. fork and exec, vfork and posix_spawn are as ever.
 *   O_DIRECT   and io_uring and vmsplice let devices write past the pager. A seccomp filter refuses them before main begins, so that no
 *              program counts on them, and stays over exec; what the process was given by others before its region is looked at when the
 *              region is asked for. direct_io.py says how, and has the same.
 *   madvise    DONTNEED and FREE of private memory give zeros, of a shared mapping they would not: they become MADV_REMOVE. Hints are
 *              swallowed, as each would split the mapping.
 *   mlock      of the region is refused (ENOMEM): its pages come and go. A process that locks all its memory gets no region.
 *   no room    when the region is full, or there is none to be had, the allocation fails (ENOMEM): local memory would break the limit
 *              that was asked for. A line on standard error says so once.
 *
 * Ordering: a range is marked as freed, then removed (the kernel waits until the agent has read the message), and only then may be handed
 * out again. A range that could not be removed is never handed out again: its bytes would not be zeros.
 *
 * Must not: allocate from itself, keep anything about the region inside the region, or hold its lock while the kernel waits for the agent.
 *
 * Units: bytes in the calls, units (4 KiB, or 2 MiB for huge pages) inside.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- What is said to whoever gives regions; run.py has the same ---- */

struct offer { /* with the descriptors of the region's memory, and of its state */
    uint64_t version, size, unit, least, features, freed_at;
};
struct acceptance { /* with the userfaultfd, and a pidfd of this process */
    uint64_t base, pid;
};
enum { VERSION = 1 };

/* ---- userfaultfd; uffd.py owns these numbers ---- */

#define UFFD_NEW _IO(0xAA, 0x00)
#define UFFD_API _IOWR(0xAA, 0x3F, uint64_t[3])
#define UFFD_REGISTER _IOWR(0xAA, 0x00, uint64_t[4])
enum { UFFD_MISSING_WP_MINOR = 7 };

#ifndef SYS_userfaultfd
#define SYS_userfaultfd 323
#endif

/* ---- The library's own functions ---- */

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);
static int (*next_posix_memalign)(void **, size_t, size_t);
static size_t (*next_malloc_usable_size)(void *);

static char boot[1 << 16]; /* for what dlsym itself allocates */
static size_t boot_used;
static __thread int finding;

static void find_next(void) {
    if (finding) return;
    finding = 1;
    next_calloc = dlsym(RTLD_NEXT, "calloc");
    next_realloc = dlsym(RTLD_NEXT, "realloc");
    next_free = dlsym(RTLD_NEXT, "free");
    next_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    next_malloc_usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
    next_malloc = dlsym(RTLD_NEXT, "malloc"); /* last: it says that all are there */
    finding = 0;
}

static void *boot_allocate(size_t bytes) {
    size_t at = __atomic_fetch_add(&boot_used, (bytes + 15) & ~(size_t)15, __ATOMIC_RELAXED);
    return at + bytes <= sizeof boot ? boot + at : NULL;
}

static int in_boot(const void *address) { return (const char *)address >= boot && (const char *)address < boot + sizeof boot; }

/* ---- The region ---- */

struct extent {
    uint32_t first, count;
};

static struct {
    uint8_t *base; /* NULL: there is none */
    uint64_t size, unit;
    uint32_t units;
    uint8_t *freed;         /* one byte a unit, in the region's state: removals that the agent may have missed */
    uint32_t *blocks;       /* of each unit that an allocation begins with: how many units it has */
    struct extent *free;    /* in order of address; neighbours are joined */
    uint32_t free_count;
    pid_t owner;
    int uffd;
} region = {.uffd = -1};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t least = 1 << 20; /* bytes from which on allocations are far */
static char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
static int guarded; /* direct I/O is refused */
static int wanted; /* this process was started under the pager, and has not asked for a region yet */
static int failed; /* it asked in vain */
static int locked_all;
static int told;

/* Regions of this process's ancestors by fork: not mapped here, and not to be mistaken for anything else. */
static struct {
    uint8_t *base;
    uint64_t size;
} inherited[8];
static int inherited_count;

static void say(const char *what) {
    if (__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED)) return;
    static const char head[] = "tmem pager: ";
    if (write(2, head, sizeof head - 1) < 0 || write(2, what, strlen(what)) < 0 || write(2, "\n", 1) < 0) return;
}

static int inside(const void *address) {
    return region.base && (const uint8_t *)address >= region.base && (const uint8_t *)address < region.base + region.size;
}

static int is_inherited(const void *address) {
    for (int at = 0; at < inherited_count; at++)
        if ((const uint8_t *)address >= inherited[at].base && (const uint8_t *)address < inherited[at].base + inherited[at].size)
            return 1;
    return 0;
}

static uint32_t unit_of(const void *address) { return (uint32_t)(((const uint8_t *)address - region.base) / region.unit); }

static void *map(size_t bytes, int protection, int flags, int file, void *at) {
    void *mapped = (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

/* ---- Free extents; call with the lock held ---- */

static uint32_t first_after(uint32_t unit) {
    uint32_t low = 0, high = region.free_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (region.free[middle].first <= unit) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void insert_extent(uint32_t at, struct extent extent) {
    memmove(&region.free[at + 1], &region.free[at], (region.free_count - at) * sizeof extent);
    region.free[at] = extent;
    region.free_count++;
}

static void remove_extent(uint32_t at) {
    region.free_count--;
    memmove(&region.free[at], &region.free[at + 1], (region.free_count - at) * sizeof region.free[0]);
}

static void give_back(uint32_t first, uint32_t count) {
    uint32_t at = first_after(first);
    int before = at > 0 && region.free[at - 1].first + region.free[at - 1].count == first;
    int behind = at < region.free_count && first + count == region.free[at].first;
    if (before && behind) {
        region.free[at - 1].count += count + region.free[at].count;
        remove_extent(at);
    } else if (before) {
        region.free[at - 1].count += count;
    } else if (behind) {
        region.free[at].first = first;
        region.free[at].count += count;
    } else {
        insert_extent(at, (struct extent){first, count});
    }
}

/* The lowest place that is large enough: so the region stays dense, and its state short. */
static int64_t take(uint32_t count, uint64_t alignment) {
    for (uint32_t at = 0; at < region.free_count; at++) {
        struct extent *extent = &region.free[at];
        uint64_t begin = (uint64_t)(uintptr_t)region.base + extent->first * region.unit;
        uint32_t skip = (uint32_t)((((begin + alignment - 1) & ~(alignment - 1)) - begin) / region.unit);
        if (extent->count < count || extent->count - count < skip) continue;
        uint32_t first = extent->first + skip;
        struct extent rest = {first + count, extent->count - skip - count};
        if (skip) {
            extent->count = skip;
            if (rest.count) insert_extent(at + 1, rest);
        } else if (rest.count) {
            *extent = rest;
        } else {
            remove_extent(at);
        }
        return first;
    }
    return -1;
}

/* Takes units right behind a block, if they are free. */
static int take_behind(uint32_t first, uint32_t count) {
    uint32_t at = first_after(first);
    struct extent *extent = at > 0 ? &region.free[at - 1] : NULL;
    if (!extent || extent->first != first || extent->count < count) return 0;
    extent->first += count;
    extent->count -= count;
    if (!extent->count) remove_extent(at - 1);
    return 1;
}

/* ---- Getting a region ---- */

/* Whether a call fails as the filter makes it fail; each is asked so that without the filter it fails otherwise, and does nothing. */
static int fails(int number, long status) { return status == -1 && errno == number; }

/* Whether the filter is there already: what this process was exec'ed by had it. A second one would cost time at each call. */
static int is_refused(void) {
    return fails(EINVAL, syscall(SYS_openat, -1, "-", O_DIRECT, 0)) && fails(EINVAL, syscall(SYS_fcntl, -1, F_SETFL, O_DIRECT)) &&
#ifdef SYS_open
           fails(EINVAL, syscall(SYS_open, NULL, O_DIRECT, 0)) &&
#endif
           fails(EINVAL, syscall(SYS_vmsplice, -1, NULL, 0, 0)) && fails(EPERM, syscall(425 /* io_uring_setup */, 0, NULL)) &&
           fails(ENOSYS, syscall(437 /* openat2 */, -1, NULL, NULL, 0));
}

/* Refuses what goes round page faults, to all threads, for good. */
static int refuse_direct_io(void) {
    if (is_refused()) return 0;
#if defined(__x86_64__)
    enum { ARCH = AUDIT_ARCH_X86_64 };
#elif defined(__aarch64__)
    enum { ARCH = AUDIT_ARCH_AARCH64 };
#else
    return -1;
#endif
#define REFUSE(call, number) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (number))
#define ARGUMENT(number) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8 * (number))
#define REFUSE_DIRECT \
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_DIRECT, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL), \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        REFUSE(SYS_vmsplice, EINVAL),
        REFUSE(425 /* io_uring_setup */, EPERM),
        REFUSE(437 /* openat2 */, ENOSYS),
#ifdef SYS_open
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_open, 0, 4), ARGUMENT(1), REFUSE_DIRECT,
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 4), ARGUMENT(2), REFUSE_DIRECT,
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fcntl, 0, 5), ARGUMENT(1),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, F_SETFL, 0, 3), ARGUMENT(2), REFUSE_DIRECT,
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    long status = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
    if (status < 0 && errno == EACCES && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        status = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
    return status ? -1 : 0;
}

/* Ends direct I/O by a descriptor that was opened elsewhere; -1: that can't be. `path` is where it is listed. */
static int clear_descriptor(int descriptor, const char *path) {
    static const char ring[] = "anon_inode:[io_uring]";
    char what[sizeof ring + 1];
    struct stat status;
    int flags = (int)syscall(SYS_fcntl, descriptor, F_GETFL);
    if (flags < 0) return 0; /* closed meanwhile */
    /* Of a pipe the flag says that it keeps writes apart, and that is as it should be. */
    if (flags & O_DIRECT && !fstat(descriptor, &status) && !S_ISFIFO(status.st_mode) &&
        syscall(SYS_fcntl, descriptor, F_SETFL, flags & ~O_DIRECT) && errno != EBADF)
        return -1;
    long length = syscall(SYS_readlinkat, AT_FDCWD, path, what, sizeof what);
    return length == sizeof ring - 1 && !memcmp(what, ring, sizeof ring - 1) ? -1 : 0;
}

/* All that are open. It allocates nothing: the lock is held. */
static int clear_descriptors(void) {
    static const char directory[] = "/proc/self/fd/";
    int list = (int)syscall(SYS_openat, AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (list < 0) return -1;
    _Alignas(struct dirent64) char entries[4096];
    long length, status = 0;
    while (!status && (length = syscall(SYS_getdents64, list, entries, sizeof entries)) > 0) {
        for (long at = 0; !status && at < length;) {
            struct dirent64 *entry = (void *)(entries + at);
            char path[sizeof directory + 16];
            at += entry->d_reclen;
            if (entry->d_name[0] == '.' || strlen(entry->d_name) > 15) continue;
            memcpy(path, directory, sizeof directory - 1);
            strcpy(path + sizeof directory - 1, entry->d_name);
            status = clear_descriptor(atoi(entry->d_name), path);
        }
    }
    close(list);
    return status || length < 0 ? -1 : 0;
}

static int open_uffd(uint64_t features) {
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int made = -1;
    if (device >= 0) {
        made = ioctl(device, UFFD_NEW, O_CLOEXEC | O_NONBLOCK);
        close(device);
    } else {
        made = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    }
    uint64_t handshake[3] = {0xAA, features, 0};
    if (made >= 0 && ioctl(made, UFFD_API, handshake)) {
        close(made);
        return -1;
    }
    return made;
}

static int receive(int from, struct offer *offer, int *descriptors) {
    struct iovec vector = {offer, sizeof *offer};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr header;
    } room;
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = sizeof room};
    ssize_t length;
    do length = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (length != sizeof *offer || offer->version != VERSION || !header || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(2 * sizeof(int)))
        return -1;
    memcpy(descriptors, CMSG_DATA(header), 2 * sizeof(int));
    return 0;
}

static int answer(int to, struct acceptance *acceptance, int uffd, int pidfd) {
    struct iovec vector = {acceptance, sizeof *acceptance};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr header;
    } room = {{0}};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &room, .msg_controllen = sizeof room};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(header), (int[]){uffd, pidfd}, 2 * sizeof(int));
    if (sendmsg(to, &message, MSG_NOSIGNAL) != sizeof *acceptance) return -1;
    char ready = 0; /* the agent serves from here on */
    ssize_t length;
    do length = read(to, &ready, 1);
    while (length < 0 && errno == EINTR);
    return length == 1 && ready == 'R' ? 0 : -1;
}

/* Maps and registers what was offered; the metadata beside it. */
static int set_up(const struct offer *offer, int memory, int state) {
    region.size = offer->size;
    region.unit = offer->unit;
    region.units = (uint32_t)(offer->size / offer->unit);
    least = offer->least;
    const size_t huge = 2u << 20;
    /* At a multiple of 2 MiB, so that units of that size are aligned in memory as in the file. */
    uint8_t *room = map(region.size + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, NULL);
    if (!room) return -1;
    uint8_t *base = (uint8_t *)(((uintptr_t)room + huge - 1) & ~(uintptr_t)(huge - 1));
    if (!map(region.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, memory, base)) return -1;
    if (syscall(SYS_madvise, base, region.size, MADV_DONTFORK)) return -1;
    uint8_t *freed = (void *)syscall(SYS_mmap, NULL, region.units, PROT_READ | PROT_WRITE, MAP_SHARED, state, offer->freed_at);
    int private = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    region.blocks = map(region.units * sizeof *region.blocks, PROT_READ | PROT_WRITE, private, -1, NULL);
    region.free = map((region.units / 2 + 2) * sizeof *region.free, PROT_READ | PROT_WRITE, private, -1, NULL);
    if ((void *)freed == MAP_FAILED || !region.blocks || !region.free) return -1;
    region.freed = freed;
    region.free[0] = (struct extent){0, region.units};
    region.free_count = 1;
    region.uffd = open_uffd(offer->features);
    uint64_t registration[4] = {(uint64_t)(uintptr_t)base, region.size, UFFD_MISSING_WP_MINOR, 0};
    if (region.uffd < 0 || ioctl(region.uffd, UFFD_REGISTER, registration)) return -1;
    region.base = base;
    return 0;
}

/* Asks for a region; call with the lock held. */
static int get_region(void) {
    if (region.base && region.owner == getpid()) return 0;
    if (region.base || !wanted) return -1; /* a child by a system call that told nobody; or nothing to be had */
    wanted = 0; /* once; whatever becomes of it */
    failed = 1; /* until it has not */
    if (!guarded || clear_descriptors()) {
        say(guarded ? "this process was given an io_uring, or /proc is not there to look; large allocations fail"
                    : "direct I/O can't be refused on this machine; large allocations fail");
        return -1;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, socket_path, sizeof socket_path);
    int to = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (to < 0) return -1;
    struct timeval patience = {120, 0}; /* longer than any giver takes that still gives */
    setsockopt(to, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct offer offer;
    int descriptors[2];
    const char *failure = NULL;
    if (connect(to, (struct sockaddr *)&address, sizeof address) || receive(to, &offer, descriptors)) {
        failure = "nobody gives far memory any more; large allocations fail";
    } else {
        if (set_up(&offer, descriptors[0], descriptors[1])) {
            failure = "userfaultfd can't be used (root, or access to /dev/userfaultfd, is needed); large allocations fail";
        } else {
            struct acceptance acceptance = {(uint64_t)(uintptr_t)region.base, (uint64_t)getpid()};
            int pidfd = (int)syscall(434 /* pidfd_open */, getpid(), 0);
            if (pidfd < 0 || answer(to, &acceptance, region.uffd, pidfd))
                failure = "no server can be reached; large allocations fail";
            if (pidfd >= 0) close(pidfd);
        }
        close(descriptors[0]);
        close(descriptors[1]);
    }
    close(to);
    region.owner = getpid();
    if (failure) {
        region.base = NULL; /* whatever is mapped stays mapped, and unused */
        say(failure);
        return -1;
    }
    failed = 0;
    return 0;
}

/* ---- Blocks ---- */

static uint32_t units_for(size_t bytes) {
    uint64_t count = (bytes + region.unit - 1) / region.unit;
    return count > region.units ? UINT32_MAX : (uint32_t)count;
}

/* Memory of zeros; NULL with errno. */
static void *far_allocate(size_t bytes, uint64_t alignment) {
    void *found = NULL;
    int saved = errno;
    pthread_mutex_lock(&lock);
    if (!get_region()) {
        uint32_t count = units_for(bytes ? bytes : 1);
        int64_t first = count == UINT32_MAX ? -1 : take(count, alignment > region.unit ? alignment : region.unit);
        if (first >= 0) {
            region.blocks[first] = count;
            found = region.base + (uint64_t)first * region.unit;
        } else {
            say("the far memory of this process is full (see --size); large allocations fail");
        }
    }
    pthread_mutex_unlock(&lock);
    errno = found ? saved : ENOMEM;
    return found;
}

/* Gives units to the agent; when this returns they are zeros. */
static int discard(uint32_t first, uint32_t count) {
    memset(region.freed + first, 1, count);
    return (int)syscall(SYS_madvise, region.base + (uint64_t)first * region.unit, count * region.unit, MADV_REMOVE);
}

static void far_release(uint32_t first, uint32_t count) {
    int saved = errno;
    if (count && !discard(first, count)) {
        pthread_mutex_lock(&lock);
        give_back(first, count);
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
}

static int is_far(size_t bytes) { return bytes >= least && (region.base || failed || (wanted && !locked_all)); }

static void far_free(void *address) {
    if (region.owner != getpid()) return; /* a fork: it is not there */
    uint32_t first = unit_of(address);
    uint32_t count = region.blocks[first];
    region.blocks[first] = 0;
    far_release(first, count);
}

static void *far_realloc(void *old, size_t bytes) {
    uint32_t first = unit_of(old);
    uint32_t count = region.blocks[first];
    if (bytes >= least) {
        uint32_t needed = units_for(bytes);
        if (needed <= count) {
            region.blocks[first] = needed;
            far_release(first + needed, count - needed);
            return old;
        }
        pthread_mutex_lock(&lock);
        int grown = needed != UINT32_MAX && take_behind(first + count, needed - count);
        if (grown) region.blocks[first] = needed;
        pthread_mutex_unlock(&lock);
        if (grown) return old;
    }
    void *moved = malloc(bytes);
    if (!moved) return NULL;
    size_t held = count * region.unit;
    memcpy(moved, old, held < bytes ? held : bytes);
    far_free(old);
    return moved;
}

/* ---- The malloc family ---- */

EXPORT void *malloc(size_t bytes) {
    if (is_far(bytes)) return far_allocate(bytes, 1);
    if (!next_malloc) find_next();
    return next_malloc ? next_malloc(bytes) : boot_allocate(bytes);
}

EXPORT void free(void *address) {
    if (inside(address)) {
        far_free(address);
        return;
    }
    if (!address || in_boot(address) || is_inherited(address)) return;
    if (!next_free) find_next();
    if (next_free) next_free(address);
}

EXPORT void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    if (is_far(bytes)) return far_allocate(bytes, 1); /* what was removed is zeros */
    if (!next_calloc) find_next();
    return next_calloc ? next_calloc(count, size) : boot_allocate(bytes);
}

EXPORT void *realloc(void *old, size_t bytes) {
    if (!next_realloc) find_next();
    if (inside(old)) {
        if (bytes) return far_realloc(old, bytes);
        far_free(old);
        return NULL;
    }
    if (!is_far(bytes) && !in_boot(old) && !is_inherited(old)) return next_realloc ? next_realloc(old, bytes) : NULL;
    void *moved = malloc(bytes);
    if (moved && old) {
        size_t held = in_boot(old) ? (size_t)(boot + sizeof boot - (char *)old)
                      : is_inherited(old) ? bytes /* SIGSEGV, as for every touch of it */
                                          : next_malloc_usable_size(old);
        memcpy(moved, old, held < bytes ? held : bytes);
        free(old);
    }
    return moved;
}

EXPORT int posix_memalign(void **result, size_t alignment, size_t bytes) {
    if (is_far(bytes) && alignment && !(alignment & (alignment - 1)) && !(alignment % sizeof(void *))) {
        int saved = errno;
        *result = far_allocate(bytes, alignment);
        errno = saved;
        return *result ? 0 : ENOMEM;
    }
    if (!next_posix_memalign) find_next();
    return next_posix_memalign ? next_posix_memalign(result, alignment, bytes) : ENOMEM;
}

EXPORT void *memalign(size_t alignment, size_t bytes) {
    void *result = NULL;
    size_t rounded = sizeof(void *);
    while (rounded < alignment && rounded << 1) rounded <<= 1;
    int status = posix_memalign(&result, rounded, bytes);
    if (status) errno = status;
    return status ? NULL : result;
}

EXPORT void *aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
EXPORT void *valloc(size_t bytes) { return memalign((size_t)getpagesize(), bytes); }

EXPORT void *pvalloc(size_t bytes) {
    size_t page = (size_t)getpagesize();
    return memalign(page, (bytes + page - 1) & ~(page - 1));
}

EXPORT size_t malloc_usable_size(void *address) {
    if (inside(address)) return region.blocks[unit_of(address)] * region.unit;
    if (!address || in_boot(address) || is_inherited(address)) return 0;
    if (!next_malloc_usable_size) find_next();
    return next_malloc_usable_size(address);
}

/* ---- Mappings ---- */

EXPORT void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
    if (!at && file == -1 && is_far(bytes) && protection == (PROT_READ | PROT_WRITE) &&
        (flags & ~MAP_NORESERVE) == (MAP_PRIVATE | MAP_ANONYMOUS)) {
        void *found = far_allocate(bytes, 1);
        return found ? found : MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
}

EXPORT void *mmap64(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
    return mmap(at, bytes, protection, flags, file, offset);
}

/* Whole units inside a range that begins in the region. */
static struct extent units_of(void *address, size_t bytes) {
    uint64_t begin = (uint64_t)((uint8_t *)address - region.base), end = begin + bytes;
    if (end > region.size) end = region.size;
    uint32_t first = (uint32_t)((begin + region.unit - 1) / region.unit), last = (uint32_t)(end / region.unit);
    return (struct extent){first, last > first ? last - first : 0};
}

EXPORT int munmap(void *address, size_t bytes) {
    if (is_inherited(address)) return 0;
    if (!inside(address)) return (int)syscall(SYS_munmap, address, bytes);
    if (region.owner != getpid()) return 0;
    /* The whole of an allocation has the rest of its last unit too; of a part only whole units can be told to be unused. */
    uint32_t first = unit_of(address);
    struct extent units = units_of(address, bytes);
    if (region.blocks[first] == units_for(bytes)) units = (struct extent){first, region.blocks[first]};
    if (units.count && units.first == first) region.blocks[first] = 0;
    far_release(units.first, units.count);
    return 0;
}

EXPORT void *mremap(void *old, size_t old_bytes, size_t bytes, int flags, ...) {
    __builtin_va_list more;
    __builtin_va_start(more, flags);
    void *at = flags & MREMAP_FIXED ? __builtin_va_arg(more, void *) : NULL;
    __builtin_va_end(more);
    if (!inside(old)) return (void *)syscall(SYS_mremap, old, old_bytes, bytes, flags, at);
    uint32_t had = units_for(old_bytes), needed = units_for(bytes);
    uint32_t first = unit_of(old);
    if (needed <= had && !(flags & MREMAP_FIXED)) {
        if (region.blocks[first] == had) region.blocks[first] = needed;
        far_release(first + needed, had - needed);
        return old;
    }
    void *moved = flags & MREMAP_MAYMOVE && !(flags & MREMAP_FIXED) ? far_allocate(bytes, 1) : NULL;
    if (!moved) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    memcpy(moved, old, old_bytes < bytes ? old_bytes : bytes);
    region.blocks[first] = 0;
    far_release(first, had);
    return moved;
}

EXPORT int madvise(void *address, size_t bytes, int advice) {
    if (!inside(address)) return (int)syscall(SYS_madvise, address, bytes, advice);
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE:
    case MADV_REMOVE: {
        struct extent units = units_of(address, bytes);
        uint8_t *begin = address, *end = begin + bytes;
        uint8_t *first = region.base + (uint64_t)units.first * region.unit;
        if (units.count) {
            uint8_t *last = first + units.count * region.unit;
            if (begin < first) memset(begin, 0, (size_t)(first - begin));
            if (last < end) memset(last, 0, (size_t)(end - last));
            return discard(units.first, units.count);
        }
        memset(begin, 0, bytes); /* parts of huge units: nothing remembers parts */
        return 0;
    }
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_WILLNEED:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DONTFORK:
    case 20: /* MADV_COLD */
    case 21: /* MADV_PAGEOUT */
    case 25: /* MADV_COLLAPSE */
        return 0;
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case 22: /* MADV_POPULATE_READ */
    case 23: /* MADV_POPULATE_WRITE */
        return (int)syscall(SYS_madvise, address, bytes, advice);
    default: /* MADV_DOFORK among them */
        errno = EINVAL;
        return -1;
    }
}

EXPORT int mlock(const void *address, size_t bytes) {
    if (!inside(address)) return (int)syscall(SYS_mlock, address, bytes);
    errno = ENOMEM;
    return -1;
}

EXPORT int mlock2(const void *address, size_t bytes, unsigned flags) {
    if (!inside(address)) return (int)syscall(SYS_mlock2, address, bytes, flags);
    errno = ENOMEM;
    return -1;
}

EXPORT int mlockall(int flags) {
    if (region.base) { /* all of it would come, at once */
        errno = ENOMEM;
        return -1;
    }
    int status = (int)syscall(SYS_mlockall, flags);
    if (!status) locked_all = 1;
    return status;
}

/* ---- Beginning, and fork ---- */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

static void in_child(void) {
    pthread_mutex_init(&lock, NULL);
    if (!region.base) return;
    /* A stray pointer must not find somebody else's memory. What is freed is let go of; what is allocated anew is the child's own. */
    map(region.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, region.base);
    close(region.uffd);
    syscall(SYS_munmap, region.freed, region.units);
    syscall(SYS_munmap, region.blocks, region.units * sizeof *region.blocks);
    syscall(SYS_munmap, region.free, (region.units / 2 + 2) * sizeof *region.free);
    wanted = (size_t)inherited_count < sizeof inherited / sizeof *inherited;
    failed = !wanted;
    if (wanted) {
        inherited[inherited_count].base = region.base;
        inherited[inherited_count++].size = region.size;
        region.base = NULL;
    }
    region.uffd = -1;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TMEM_PAGER_SOCKET");
    const char *threshold = getenv("TMEM_PAGER_THRESHOLD");
    if (!path || strlen(path) >= sizeof socket_path) return;
    memcpy(socket_path, path, strlen(path) + 1);
    if (threshold) least = strtoull(threshold, NULL, 10);
    if (!next_malloc) find_next();
    pthread_atfork(before_fork, after_fork, in_child);
    int saved = errno;
    guarded = !refuse_direct_io();
    errno = saved;
    wanted = 1;
}
