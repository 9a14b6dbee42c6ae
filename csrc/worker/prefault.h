// Which pages every run writes to, so that a child that waits for its order can do so beforehand:
// the first write to a page shared with the worker costs a fault and a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stepcoder::touch {

struct Range {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  size_t size() const { return end - begin; }
  void* data() const { return reinterpret_cast<void*>(begin); }
};

// In a process of its own: makes the ranges read-only, calls `work` and notes at `pages` (room for
// kMaxPages) which of their pages it writes to. Ends the process.
constexpr uint32_t kMaxPages = 4096;
struct Written {
  uint32_t count;
  uintptr_t pages[kMaxPages];
};
[[noreturn]] void watch(const std::vector<Range>& ranges, Written* written, void (*work)(void*),
                        void* argument);

// Writes to each page what it holds.
void write_to(const std::vector<uintptr_t>& pages);

}  // namespace stepcoder::touch
