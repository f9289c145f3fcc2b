/* Records what this process writes, names and syncs below one directory, in order, with the bytes.

   Preloaded (LD_PRELOAD); it does nothing until lms_record() is called. Each call is made and noted under one lock,
   so that the order in the log is the order on the medium. Files that are mapped shared and writable are looked at
   whenever something is synced or marked, and what differs is noted as writes. Not seen: C streams (fopen, fwrite),
   io_uring, system calls that do not go through libc, and other processes. 64-bit Linux.

   A record in the log: kind, three numbers, two texts, bytes; see `power.log`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAPPED 64
#define PAGE 4096

struct head { uint8_t kind; uint8_t pad[3]; uint32_t a_len, b_len, pad2; uint64_t ino, at, len; };
struct mapped { uint64_t ino; char path[PATH_MAX]; char *seen; size_t len; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_len;
static int out = -1;
static pid_t owner;
static struct mapped maps[MAPPED];
static int n_maps;

static void put_all(const void *data, size_t n) {
    const char *p = data;
    while (n) {
        long done = syscall(SYS_write, out, p, n);
        if (done <= 0) { if (errno == EINTR) continue; abort(); }
        p += done; n -= (size_t)done;
    }
}

static void note(char kind, uint64_t ino, uint64_t at, const char *a, const char *b, const void *data, uint64_t len) {
    struct head h = {0};
    h.kind = (uint8_t)kind; h.ino = ino; h.at = at; h.len = data ? len : 0;
    if (!data) h.len = len;
    h.a_len = a ? (uint32_t)strlen(a) : 0; h.b_len = b ? (uint32_t)strlen(b) : 0;
    put_all(&h, sizeof h);
    if (h.a_len) put_all(a, h.a_len);
    if (h.b_len) put_all(b, h.b_len);
    if (data) put_all(data, len);
}

/* Whether calls are recorded now; the lock is then held until leave(). */
static int enter(void) {
    if (out < 0 || getpid() != owner) return 0;
    pthread_mutex_lock(&lock);
    return 1;
}
static void leave(int on) { if (on) { int kept = errno; pthread_mutex_unlock(&lock); errno = kept; } }

/* The part of a path below the root, or NULL. */
static const char *below(const char *path) {
    if (strncmp(path, root, root_len) || (path[root_len] != '/' && path[root_len])) return NULL;
    return path[root_len] ? path + root_len + 1 : path + root_len;
}
static const char *name_of(int fd, char *buf) {
    char link[64], *p = link + sizeof link - 1;
    int n = fd;
    *p = 0;
    do { *--p = (char)('0' + n % 10); n /= 10; } while (n);
    p -= 14; memcpy(p, "/proc/self/fd/", 14);
    long len = syscall(SYS_readlinkat, AT_FDCWD, p, buf, PATH_MAX - 1);
    if (len < 0) return NULL;
    buf[len] = 0;
    return below(buf);
}
/* Where a path that need not exist leads: its directory resolved, its last part as given. */
static const char *resolved(int dir, const char *path, char *buf) {
    char joined[2 * PATH_MAX], base[PATH_MAX];
    if (path[0] != '/') {
        if (dir == AT_FDCWD) { if (!getcwd(base, sizeof base)) return NULL; }
        else { char link[64]; long n;
            strcpy(link, "/proc/self/fd/"); char *p = link + 14; char digits[16]; int k = 0, d = dir;
            do { digits[k++] = (char)('0' + d % 10); d /= 10; } while (d);
            while (k) *p++ = digits[--k];
            *p = 0;
            n = syscall(SYS_readlinkat, AT_FDCWD, link, base, PATH_MAX - 1);
            if (n < 0) return NULL;
            base[n] = 0;
        }
        strcpy(joined, base); strcat(joined, "/"); strncat(joined, path, PATH_MAX - 2);
    } else { strncpy(joined, path, PATH_MAX - 1); joined[PATH_MAX - 1] = 0; }
    size_t len = strlen(joined);
    while (len > 1 && joined[len - 1] == '/') joined[--len] = 0;
    char *slash = strrchr(joined, '/');
    char last[PATH_MAX];
    strncpy(last, slash + 1, sizeof last - 1); last[sizeof last - 1] = 0;
    *(slash == joined ? slash + 1 : slash) = 0;
    if (!realpath(joined, buf)) return NULL;
    if (strlen(buf) + strlen(last) + 2 > PATH_MAX) return NULL;
    strcat(buf, "/"); strcat(buf, last);
    return below(buf);
}
static int regular(int fd, struct stat *st) { return !fstat(fd, st) && S_ISREG(st->st_mode); }

/* What differs in mapped files since they were looked at. */
static void look(void) {
    static char page[PAGE];
    for (int i = 0; i < n_maps; i++) {
        struct mapped *m = &maps[i];
        struct stat st;
        int fd = (int)syscall(SYS_openat, AT_FDCWD, m->path, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0) continue;
        if (regular(fd, &st) && st.st_ino == m->ino) {
            size_t size = (size_t)st.st_size;
            if (size > m->len) {
                m->seen = realloc(m->seen, size);
                if (!m->seen) abort();
                memset(m->seen + m->len, 0, size - m->len);
                m->len = size;
            }
            for (size_t at = 0; at < size; at += PAGE) {
                long n = syscall(SYS_pread64, fd, page, PAGE, at);
                if (n > 0 && memcmp(m->seen + at, page, (size_t)n)) {
                    memcpy(m->seen + at, page, (size_t)n);
                    note('w', m->ino, at, NULL, NULL, page, (uint64_t)n);
                }
            }
        }
        syscall(SYS_close, fd);
    }
}

/* Begin: `directory` is resolved and empty. 0 where the log cannot be written. */
int lms_record(const char *directory, const char *log) {
    strncpy(root, directory, sizeof root - 1);
    root_len = strlen(root);
    owner = getpid();
    out = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0600);
    return out >= 0;
}
/* A moment of the caller's own. */
void lms_mark(uint64_t number) {
    int on = enter();
    if (on) { look(); note('m', number, 0, NULL, NULL, NULL, 0); }
    leave(on);
}

static void wrote(int fd, uint64_t at, const void *data, size_t n, int durable) {
    char buf[PATH_MAX];
    struct stat st;
    if (!name_of(fd, buf) || !regular(fd, &st)) return;
    note('w', st.st_ino, at, NULL, NULL, data, n);
    if (durable || (fcntl(fd, F_GETFL) & O_DSYNC)) note('s', st.st_ino, 0, NULL, NULL, NULL, 0);
}
static void wrote_many(int fd, uint64_t at, const struct iovec *iov, int n, size_t done, int durable) {
    for (int i = 0; i < n && done; i++) {
        size_t part = iov[i].iov_len < done ? iov[i].iov_len : done;
        wrote(fd, at, iov[i].iov_base, part, durable);
        at += part; done -= part;
    }
}
static uint64_t position(int fd, size_t done) { return (uint64_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) - done; }
static void length(int fd) {
    char buf[PATH_MAX];
    struct stat st;
    if (name_of(fd, buf) && regular(fd, &st)) note('t', st.st_ino, (uint64_t)st.st_size, NULL, NULL, NULL, 0);
}
/* What was moved into a file without passing through this process. */
static void moved(int fd, uint64_t at, size_t n) {
    char link[64] = "/proc/self/fd/", buf[PATH_MAX];
    if (!name_of(fd, buf)) return;
    char digits[16]; int k = 0, d = fd; char *p = link + 14;
    do { digits[k++] = (char)('0' + d % 10); d /= 10; } while (d);
    while (k) *p++ = digits[--k];
    *p = 0;
    int in = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
    char *data = malloc(n ? n : 1);
    long got = in < 0 || !data ? -1 : syscall(SYS_pread64, in, data, n, at);
    if (got > 0) wrote(fd, at, data, (size_t)got, 0);
    free(data);
    if (in >= 0) syscall(SYS_close, in);
}

ssize_t write(int fd, const void *data, size_t n) {
    int on = enter();
    ssize_t done = syscall(SYS_write, fd, data, n);
    if (on && done > 0) wrote(fd, position(fd, (size_t)done), data, (size_t)done, 0);
    leave(on);
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
    int on = enter();
    ssize_t done = syscall(SYS_pwrite64, fd, data, n, at);
    if (on && done > 0) wrote(fd, (uint64_t)at, data, (size_t)done, 0);
    leave(on);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }
ssize_t writev(int fd, const struct iovec *iov, int n) {
    int on = enter();
    ssize_t done = syscall(SYS_writev, fd, iov, n);
    if (on && done > 0) wrote_many(fd, position(fd, (size_t)done), iov, n, (size_t)done, 0);
    leave(on);
    return done;
}
ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off_t at, int flags) {
    int on = enter();
    ssize_t done = syscall(SYS_pwritev2, fd, iov, n, at, 0, flags);
    if (on && done > 0)
        wrote_many(fd, at < 0 ? position(fd, (size_t)done) : (uint64_t)at, iov, n, (size_t)done, flags & RWF_DSYNC);
    leave(on);
    return done;
}
ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t at, int flags) {
    return pwritev64v2(fd, iov, n, at, flags);
}
ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t at) { return pwritev64v2(fd, iov, n, at, 0); }
ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at) { return pwritev64v2(fd, iov, n, at, 0); }
ssize_t copy_file_range(int in, off_t *from, int fd, off_t *to, size_t n, unsigned flags) {
    int on = enter();
    ssize_t done = syscall(SYS_copy_file_range, in, from, fd, to, n, flags);
    if (on && done > 0) moved(fd, to ? (uint64_t)(*to - done) : position(fd, (size_t)done), (size_t)done);
    leave(on);
    return done;
}
ssize_t sendfile64(int fd, int in, off_t *from, size_t n) {
    int on = enter();
    ssize_t done = syscall(SYS_sendfile, fd, in, from, n);
    if (on && done > 0) moved(fd, position(fd, (size_t)done), (size_t)done);
    leave(on);
    return done;
}
ssize_t sendfile(int fd, int in, off_t *from, size_t n) { return sendfile64(fd, in, from, n); }

int ftruncate64(int fd, off_t n) {
    int on = enter(), r = (int)syscall(SYS_ftruncate, fd, n);
    if (on && !r) length(fd);
    leave(on);
    return r;
}
int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }
int truncate64(const char *path, off_t n) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int r = ftruncate64(fd, n);
    syscall(SYS_close, fd);
    return r;
}
int truncate(const char *path, off_t n) { return truncate64(path, n); }
int fallocate64(int fd, int mode, off_t at, off_t n) {
    int on = enter(), r = (int)syscall(SYS_fallocate, fd, mode, at, n);
    if (on && !r) {
        struct stat st;
        char buf[PATH_MAX];
        if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) && name_of(fd, buf) && regular(fd, &st))
            note('z', st.st_ino, (uint64_t)at, NULL, NULL, NULL, (uint64_t)n);
        length(fd);
    }
    leave(on);
    return r;
}
int fallocate(int fd, int mode, off_t at, off_t n) { return fallocate64(fd, mode, at, n); }
int posix_fallocate64(int fd, off_t at, off_t n) {
    int kept = errno, r = fallocate64(fd, 0, at, n) ? errno : 0;
    errno = kept;
    return r;
}
int posix_fallocate(int fd, off_t at, off_t n) { return posix_fallocate64(fd, at, n); }

static int opened(int dir, const char *path, int flags, mode_t mode) {
    int on = out >= 0 && (flags & (O_CREAT | O_TRUNC)) ? enter() : 0;
    char buf[PATH_MAX];
    struct stat st;
    int was = on ? !fstatat(dir, path, &st, 0) : 0;
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    const char *name = on && fd >= 0 ? name_of(fd, buf) : NULL;
    if (name && regular(fd, &st)) {
        if (!was) note('c', st.st_ino, 0, (flags & O_TMPFILE) == O_TMPFILE ? NULL : name, NULL, NULL, 0);
        else if (flags & O_TRUNC) note('t', st.st_ino, 0, NULL, NULL, NULL, 0);
    }
    leave(on);
    return fd;
}
#define MODE(flags) mode_t mode = 0; if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { va_list v; va_start(v, flags); mode = va_arg(v, mode_t); va_end(v); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat(const char *path, mode_t mode) { return creat64(path, mode); }

int renameat2(int from, const char *a, int to, const char *b, unsigned flags) {
    int on = enter(), r;
    char one[PATH_MAX], two[PATH_MAX];
    const char *x = on ? resolved(from, a, one) : NULL, *y = on ? resolved(to, b, two) : NULL;
    r = (int)syscall(SYS_renameat2, from, a, to, b, flags);
    if (!r && x && y) note(flags & RENAME_EXCHANGE ? 'x' : 'r', 0, 0, x, y, NULL, 0);
    else if (!r && x) note('u', 0, 0, x, NULL, NULL, 0);
    else if (!r && y) note('?', 0, 0, y, NULL, NULL, 0);
    leave(on);
    return r;
}
int renameat(int from, const char *a, int to, const char *b) { return renameat2(from, a, to, b, 0); }
int rename(const char *a, const char *b) { return renameat2(AT_FDCWD, a, AT_FDCWD, b, 0); }
int unlinkat(int dir, const char *path, int flags) {
    int on = enter(), r;
    char buf[PATH_MAX];
    const char *name = on ? resolved(dir, path, buf) : NULL;
    r = (int)syscall(SYS_unlinkat, dir, path, flags);
    if (!r && name) note(flags & AT_REMOVEDIR ? 'R' : 'u', 0, 0, name, NULL, NULL, 0);
    leave(on);
    return r;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int linkat(int from, const char *a, int to, const char *b, int flags) {
    int on = enter(), r;
    char buf[PATH_MAX];
    struct stat st;
    const char *name = on ? resolved(to, b, buf) : NULL;
    r = (int)syscall(SYS_linkat, from, a, to, b, flags);
    if (!r && name && !fstatat(to, b, &st, 0)) note('l', st.st_ino, 0, name, NULL, NULL, 0);
    leave(on);
    return r;
}
int link(const char *a, const char *b) { return linkat(AT_FDCWD, a, AT_FDCWD, b, 0); }
int mkdirat(int dir, const char *path, mode_t mode) {
    int on = enter(), r = (int)syscall(SYS_mkdirat, dir, path, mode);
    char buf[PATH_MAX];
    const char *name = on && !r ? resolved(dir, path, buf) : NULL;
    if (name) note('M', 0, 0, name, NULL, NULL, 0);
    leave(on);
    return r;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

static int synced(int fd, long number) {
    int on = enter(), r;
    if (on) look();
    r = (int)syscall(number, fd);
    if (on && !r) {
        char buf[PATH_MAX];
        struct stat st;
        const char *name = name_of(fd, buf);
        if (number == SYS_syncfs) note('S', 0, 0, NULL, NULL, NULL, 0);
        else if (name && !fstat(fd, &st) && S_ISDIR(st.st_mode)) note('d', 0, 0, name, NULL, NULL, 0);
        else if (name) { if (!fstat(fd, &st)) note('s', st.st_ino, 0, NULL, NULL, NULL, 0); }
    }
    leave(on);
    return r;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }
int syncfs(int fd) { return synced(fd, SYS_syncfs); }
void sync(void) {
    int on = enter();
    if (on) look();
    syscall(SYS_sync);
    if (on) note('S', 0, 0, NULL, NULL, NULL, 0);
    leave(on);
}
int msync(void *at, size_t n, int flags) {
    int on = enter(), r;
    if (on) look();
    r = (int)syscall(SYS_msync, at, n, flags);
    /* Of which file it is part is not asked: it is taken for all that are mapped. */
    if (on && !r && (flags & MS_SYNC)) for (int i = 0; i < n_maps; i++) note('s', maps[i].ino, 0, NULL, NULL, NULL, 0);
    leave(on);
    return r;
}
void *mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset) {
    int shared = fd >= 0 && (flags & MAP_SHARED) && (prot & PROT_WRITE);
    int on = shared ? enter() : 0;
    void *r = (void *)syscall(SYS_mmap, at, n, prot, flags, fd, offset);
    char buf[PATH_MAX];
    struct stat st;
    if (on && r != MAP_FAILED && name_of(fd, buf) && regular(fd, &st)) {
        int i = 0;
        while (i < n_maps && maps[i].ino != st.st_ino) i++;
        if (i == n_maps && n_maps < MAPPED) {
            memset(&maps[i], 0, sizeof maps[i]);
            maps[i].ino = st.st_ino;
            strcpy(maps[i].path, buf);
            n_maps++;
        }
    }
    leave(on);
    return r;
}
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset) {
    return mmap64(at, n, prot, flags, fd, offset);
}
