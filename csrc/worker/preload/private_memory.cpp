// In a worker's interpreter memory that a program asks to be shared is its own, since it has no one
// to share it with. The filter refuses the other kind (seccomp.cpp).
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" __attribute__((visibility("default"))) void* mmap64(void* address, size_t length,
                                                               int protection, int flags, int fd,
                                                               off64_t offset) {
  if ((flags & MAP_ANONYMOUS) != 0 && (flags & MAP_SHARED) != 0)
    flags = (flags & ~MAP_SHARED_VALIDATE) | MAP_PRIVATE;
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, length, protection, flags, fd, offset));
}
