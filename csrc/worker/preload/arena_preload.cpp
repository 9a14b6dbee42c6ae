// A library that is preloaded into a worker's interpreter. It places all small objects together,
// and the start of the C heap, on whole huge pages; huge_pages.cpp ends this once the worker is
// warm. Python is looked up by name, so that the library also loads where there is none (env).
#include "worker/preload/arena_preload.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

using stepcoder::ArenaAllocator;
using stepcoder::Arenas;

extern "C" {
__attribute__((visibility("default"))) Arenas stepcoder_arenas;
}

namespace {

constexpr uintptr_t kHuge = uintptr_t{2} << 20;
constexpr size_t kReserved = size_t{128} << 20;

constexpr uintptr_t rounded_up(uintptr_t address) { return (address + kHuge - 1) & ~(kHuge - 1); }

void* new_arena(void* context, size_t size) {
  Arenas& arenas = stepcoder_arenas;
  if (size > arenas.end - arenas.next) return arenas.usual.alloc(context, size);
  void* arena = reinterpret_cast<void*>(arenas.next);
  arenas.next += size;
  return arena;
}

__attribute__((constructor)) void place_arenas() {
  using Access = void (*)(ArenaAllocator*);
  const auto get = reinterpret_cast<Access>(dlsym(RTLD_DEFAULT, "PyObject_GetArenaAllocator"));
  const auto set = reinterpret_cast<Access>(dlsym(RTLD_DEFAULT, "PyObject_SetArenaAllocator"));
  if (get == nullptr || set == nullptr) return;
  void* memory = mmap(nullptr, kReserved, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;
  Arenas& arenas = stepcoder_arenas;
  arenas.begin = arenas.next = rounded_up(reinterpret_cast<uintptr_t>(memory));
  arenas.end = reinterpret_cast<uintptr_t>(memory) + kReserved;
  get(&arenas.usual);
  ArenaAllocator ours{arenas.usual.context, new_arena, arenas.usual.free};
  set(&ours);
  const auto heap = reinterpret_cast<uintptr_t>(sbrk(0));
  sbrk(static_cast<intptr_t>(rounded_up(heap) - heap));
}

}  // namespace
