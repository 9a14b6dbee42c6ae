// See huge_pages.h.
#include "huge_pages.h"

#include <Python.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "fd.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace stepcoder::huge_pages {
namespace {

constexpr uintptr_t kHuge = uintptr_t{2} << 20;
constexpr size_t kReserved = size_t{128} << 20;

constexpr uintptr_t rounded_down(uintptr_t address) { return address & ~(kHuge - 1); }
constexpr uintptr_t rounded_up(uintptr_t address) { return rounded_down(address + kHuge - 1); }

struct Range {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  size_t size() const { return end - begin; }
  void* data() const { return reinterpret_cast<void*>(begin); }
};

// The whole huge pages within a range.
Range whole_pages(Range range) {
  const Range whole{rounded_up(range.begin), rounded_down(range.end)};
  return whole.begin < whole.end ? whole : Range{};
}

Range reserve(size_t size) {
  void* memory = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return {};
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const Range aligned{rounded_up(begin), rounded_up(begin) + size};
  if (aligned.begin > begin) munmap(memory, aligned.begin - begin);
  munmap(reinterpret_cast<void*>(aligned.end), begin + size + kHuge - aligned.end);
  return aligned;
}

Range g_objects;          // reserved for the interpreter's arenas
uintptr_t g_objects_end;  // of those given out
uintptr_t g_heap_begin;
std::vector<Range> g_others;  // what was there before, as far as it is the interpreter's own
PyObjectArenaAllocator g_usual;

void* new_arena(void* context, size_t size) {
  if (size > g_objects.end - g_objects_end) return g_usual.alloc(context, size);
  void* arena = reinterpret_cast<void*>(g_objects_end);
  g_objects_end += size;
  return arena;
}

struct Mapping {
  Range range;
  std::string permissions;
  std::string path;
  bool written = false;  // holds pages of this process's own
};

std::vector<Mapping> mappings() {
  std::vector<Mapping> found;
  std::ifstream maps("/proc/self/smaps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream parts(line);
    std::string first;
    std::string ignored;
    parts >> first;
    if (first == "Anonymous:") {
      uint64_t kilobytes = 0;
      parts >> kilobytes;
      found.back().written = kilobytes > 0;
    }
    const size_t dash = first.find('-');
    if (dash == std::string::npos) continue;
    Mapping mapping;
    mapping.range = {std::stoull(first.substr(0, dash), nullptr, 16),
                     std::stoull(first.substr(dash + 1), nullptr, 16)};
    parts >> mapping.permissions >> ignored >> ignored >> ignored >> mapping.path;
    found.push_back(std::move(mapping));
  }
  return found;
}

// A copy of the code on huge pages in the place of the file's own, which may be what runs this.
void copy_over(Range code) {
  const Range copy = reserve(code.size());
  if (copy.begin == 0) return;
  madvise(copy.data(), copy.size(), MADV_HUGEPAGE);
  std::memcpy(copy.data(), code.data(), code.size());
  madvise(copy.data(), copy.size(), MADV_COLLAPSE);
  checked(mprotect(copy.data(), copy.size(), PROT_READ | PROT_EXEC), "protect code");
  if (mremap(copy.data(), copy.size(), copy.size(), MREMAP_MAYMOVE | MREMAP_FIXED, code.data()) ==
      MAP_FAILED)
    munmap(copy.data(), copy.size());
}

}  // namespace

void gather_objects() {
  g_objects = reserve(kReserved);
  if (g_objects.begin == 0) return;
  g_objects_end = g_objects.begin;
  PyObject_GetArenaAllocator(&g_usual);
  PyObjectArenaAllocator ours{g_usual.ctx, new_arena, g_usual.free};
  PyObject_SetArenaAllocator(&ours);
}

void move_code() {
  const std::vector<Mapping> all = mappings();
  const auto goes_on = [&](size_t i) {
    return i + 1 < all.size() && all[i + 1].path == all[i].path &&
           all[i + 1].range.begin == all[i].range.end;
  };
  for (size_t i = 0; i < all.size(); ++i) {
    const Mapping& mapping = all[i];
    if (mapping.path == "[heap]") g_heap_begin = mapping.range.begin;
    if (mapping.path.empty() && mapping.permissions == "rw-p") g_others.push_back(mapping.range);
    if (!mapping.path.starts_with('/') || mapping.permissions[3] != 'p') continue;
    // What a library's loading wrote and then closed joins its other variables.
    if (mapping.written && mapping.permissions == "r--p" && goes_on(i) &&
        all[i + 1].permissions == "rw-p")
      checked(mprotect(mapping.range.data(), mapping.range.size(), PROT_READ | PROT_WRITE),
              "join variables");
    // Its constants, code and constants again: one mapping instead of three.
    const auto is_code = [&](size_t k) {
      return all[k].permissions.starts_with("r-") && !all[k].written;
    };
    if (!is_code(i)) continue;
    Range range = mapping.range;
    bool executable = mapping.permissions[2] == 'x';
    while (goes_on(i) && is_code(i + 1)) {
      ++i;
      range.end = all[i].range.end;
      executable = executable || all[i].permissions[2] == 'x';
    }
    if (!executable) continue;
    checked(mprotect(range.data(), range.size(), PROT_READ | PROT_EXEC), "join code");
    const Range whole = whole_pages(range);
    if (whole.begin != 0) copy_over(whole);
  }
}

void collapse_data() {
  if (g_objects.begin == 0) return;
  PyObject_SetArenaAllocator(&g_usual);
  const Range used{g_objects.begin, rounded_up(g_objects_end)};
  if (used.end < g_objects.end) munmap(reinterpret_cast<void*>(used.end), g_objects.end - used.end);
  // The C heap ends with a whole page; malloc copes with others that move its end.
  const auto heap_end = reinterpret_cast<uintptr_t>(sbrk(0));
  sbrk(static_cast<intptr_t>(rounded_up(heap_end) - heap_end));
  g_others.push_back({g_heap_begin, rounded_up(heap_end)});
  g_others.push_back(used);
  for (const Range& range : g_others) {
    const Range whole = whole_pages(range);
    if (whole.begin != 0) madvise(whole.data(), whole.size(), MADV_COLLAPSE);
  }
}

}  // namespace stepcoder::huge_pages
