// In a worker's interpreter /dev/stdin opens stdin: there is no /proc, into which it leads
// elsewhere. Preloaded, since every way to open a file ends in this function of the C library.
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" __attribute__((visibility("default"))) int open64(const char* path, int flags, ...) {
  if ((flags & O_ACCMODE) == O_RDONLY && strcmp(path, "/dev/stdin") == 0)
    return fcntl(0, F_DUPFD_CLOEXEC, 3);
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
