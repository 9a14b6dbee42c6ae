// See prefault.h.
#include "worker/prefault.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

namespace stepcoder {
namespace {

constexpr uintptr_t kPage = 4096;
DirtyPages* g_dirty = nullptr;

// Notes a read-only page that was written to and makes it writable; the write is then repeated.
void on_fault(int /*number*/, siginfo_t* info, void* /*context*/) {
  const uintptr_t page = reinterpret_cast<uintptr_t>(info->si_addr) & ~(kPage - 1);
  if (g_dirty->count == kMaxDirtyPages ||
      mprotect(reinterpret_cast<void*>(page), kPage, PROT_READ | PROT_WRITE) != 0)
    _exit(1);
  g_dirty->pages[g_dirty->count++] = page;
}

}  // namespace

void record_dirty_pages(const std::vector<AddressRange>& ranges, DirtyPages* dirty,
                        void (*work)(void*), void* argument) {
  static std::array<char, 64 << 10> stack;
  g_dirty = dirty;
  const stack_t own{stack.data(), 0, stack.size()};
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  if (sigaltstack(&own, nullptr) != 0 || sigaction(SIGSEGV, &action, nullptr) != 0) _exit(1);
  const AddressRange* range = ranges.data();
  const AddressRange* const end = range + ranges.size();
  // The vector's own memory may lie in the ranges, so nothing is written to it from here on.
  for (; range != end; ++range) mprotect(range->data(), range->size(), PROT_READ);
  work(argument);
  _exit(0);
}

void prefault(const std::vector<uintptr_t>& pages) {
  for (const uintptr_t page : pages) {
    auto* byte = reinterpret_cast<volatile char*>(page);
    *byte = *byte;
  }
}

}  // namespace stepcoder
