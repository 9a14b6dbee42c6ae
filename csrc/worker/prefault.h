// Pages that every run writes to. A pre-forked child writes to them before its request arrives: the
// first write to a page shared with the worker costs a page fault and a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stepcoder {

struct AddressRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  size_t size() const { return end - begin; }
  void* data() const { return reinterpret_cast<void*>(begin); }
};

constexpr uint32_t kMaxDirtyPages = 4096;
struct DirtyPages {
  uint32_t count;
  uintptr_t pages[kMaxDirtyPages];
};

// Makes the ranges read-only, calls `work` and notes in `dirty` which of their pages it writes to.
// Call it in a process of its own: it ends the process.
[[noreturn]] void record_dirty_pages(const std::vector<AddressRange>& ranges, DirtyPages* dirty,
                                     void (*work)(void*), void* argument);

// Writes to each page without changing it.
void prefault(const std::vector<uintptr_t>& pages);

}  // namespace stepcoder
