// See prefault.h.
#include "worker/prefault.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

namespace stepcoder::touch {
namespace {

constexpr uintptr_t kPage = 4096;
Written* g_written = nullptr;

// The page that could not be written to: noted, and written to when this returns.
void on_fault(int /*number*/, siginfo_t* info, void* /*context*/) {
  const uintptr_t page = reinterpret_cast<uintptr_t>(info->si_addr) & ~(kPage - 1);
  if (g_written->count == kMaxPages ||
      mprotect(reinterpret_cast<void*>(page), kPage, PROT_READ | PROT_WRITE) != 0)
    _exit(1);
  g_written->pages[g_written->count++] = page;
}

}  // namespace

void watch(const std::vector<Range>& ranges, Written* written, void (*work)(void*),
           void* argument) {
  static std::array<char, 64 << 10> stack;
  g_written = written;
  const stack_t own{stack.data(), 0, stack.size()};
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  if (sigaltstack(&own, nullptr) != 0 || sigaction(SIGSEGV, &action, nullptr) != 0) _exit(1);
  const Range* range = ranges.data();
  const Range* const end = range + ranges.size();
  // The vector's own memory may lie in them: from here on nothing of it is written to.
  for (; range != end; ++range) mprotect(range->data(), range->size(), PROT_READ);
  work(argument);
  _exit(0);
}

void write_to(const std::vector<uintptr_t>& pages) {
  for (const uintptr_t page : pages) {
    auto* byte = reinterpret_cast<volatile char*>(page);
    *byte = *byte;
  }
}

}  // namespace stepcoder::touch
