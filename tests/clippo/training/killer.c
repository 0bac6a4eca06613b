/* Counts the calls that change files below a folder, and at one of them kills the process or fails. Removing what is
 * not there changes nothing, and is not counted.
 *
 * Loaded with LD_PRELOAD, it takes the place of functions of the C library. fopen is among them, because the streams
 * of C++ open files by it; they write with write and writev.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_CALLS = 4096, MAX_PATH = 4096 };

static char folder[MAX_PATH];
static long target = -1;
static int error, is_lasting;
static long count;
static char names[MAX_CALLS][128];

/* Count from 0 below a folder, or no more if it is "". Call number `number` kills the process if `code` is 0, and fails
 * with that errno otherwise; with `lasting`, so do the later ones that a full or read-only disk lets fail. */
void arm(const char *path, long number, int code, int lasting) {
    snprintf(folder, sizeof folder, "%s", path);
    target = number, error = code, is_lasting = lasting, count = 0;
}

long calls(void) { return count; }

const char *call(long number) { return names[number]; }

/* Whether the call that is about to happen has to fail. */
static int strikes(const char *name, const char *path) {
    size_t length = strlen(folder);
    if (!length || strncmp(path, folder, length) || (path[length] && path[length] != '/')) return 0;
    long number = count++;
    if (number < MAX_CALLS) snprintf(names[number], sizeof names[number], "%s %.100s", name, path + length);
    int is_hit = number == target || (is_lasting && target >= 0 && number > target);
    if (!is_hit) return 0;
    if (!error) raise(SIGKILL);
    /* A full disk can still rename, remove, truncate and close; a read-only one can still close. */
    if (is_lasting && !strchr(error == ENOSPC ? "owmf" : "owmftru", name[0])) return 0;
    errno = error;
    return 1;
}

static int strikes_fd(const char *name, int fd) {
    char link[64], path[MAX_PATH];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    return strikes(name, path);
}

static int strikes_at(const char *name, int fd, const char *path) {
    char whole[2 * MAX_PATH], link[64];
    if (path[0] == '/') return strikes(name, path);
    int kept = errno;
    snprintf(link, sizeof link, fd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, whole, MAX_PATH);
    errno = kept;
    if (length < 0) return 0;
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    return strikes(name, whole);
}

static int exists(int fd, const char *path) {
    struct stat about;
    int kept = errno, found = !fstatat(fd, path, &about, AT_SYMLINK_NOFOLLOW);
    errno = kept;
    return found;
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                      \
    int name(const char *path, int flags, ...) {                                        \
        va_list rest;                                                                   \
        va_start(rest, flags);                                                          \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                                   \
        if (writes(flags) && strikes_at("open", AT_FDCWD, path)) return -1;             \
        return REAL(name)(path, flags, mode);                                           \
    }
#define OPENAT(name)                                                                    \
    int name(int fd, const char *path, int flags, ...) {                                \
        va_list rest;                                                                   \
        va_start(rest, flags);                                                          \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                                   \
        if (writes(flags) && strikes_at("open", fd, path)) return -1;                   \
        return REAL(name)(fd, path, flags, mode);                                       \
    }
#define FOPEN(name)                                                                     \
    FILE *name(const char *path, const char *mode) {                                    \
        if (strpbrk(mode, "wa+") && strikes_at("open", AT_FDCWD, path)) return NULL;    \
        return REAL(name)(path, mode);                                                  \
    }
#define CALL(type, name, parameters, arguments, strike)                                 \
    type name parameters { return strike ? -1 : REAL(name) arguments; }
#define ON_FD(type, name, label, parameters, arguments)                                 \
    CALL(type, name, parameters, arguments, strikes_fd(label, fd))

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
CALL(int, creat, (const char *path, mode_t mode), (path, mode), strikes_at("open", AT_FDCWD, path))
CALL(int, creat64, (const char *path, mode_t mode), (path, mode), strikes_at("open", AT_FDCWD, path))
ON_FD(ssize_t, write, "write", (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, writev, "write", (int fd, const struct iovec *parts, int size), (fd, parts, size))
ON_FD(ssize_t, pwrite, "write", (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, "write", (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(int, fsync, "fsync", (int fd), (fd))
ON_FD(int, fdatasync, "fsync", (int fd), (fd))
ON_FD(int, ftruncate, "truncate", (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), strikes_at("mkdir", AT_FDCWD, path))
CALL(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode),
     strikes_at("mkdir", fd, path))
CALL(int, unlink, (const char *path), (path),
     exists(AT_FDCWD, path) && strikes_at("unlink", AT_FDCWD, path))
CALL(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags),
     exists(fd, path) && strikes_at("unlink", fd, path))
CALL(int, rmdir, (const char *path), (path), strikes_at("rmdir", AT_FDCWD, path))
CALL(int, rename, (const char *from, const char *to), (from, to), strikes_at("rename", AT_FDCWD, from))
CALL(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to),
     strikes_at("rename", a, from))
CALL(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags),
     strikes_at("rename", a, from))

int close(int fd) { /* which gives the descriptor back even if it fails */
    int is_struck = writes(fcntl(fd, F_GETFL)) && strikes_fd("close", fd), code = errno;
    int result = REAL(close)(fd);
    if (is_struck) errno = code;
    return is_struck ? -1 : result;
}
