// What arena_preload.cpp leaves for the launcher, under the name `stepcoder_arenas`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stepcoder {

// PyObjectArenaAllocator, without Python's headers.
struct ArenaAllocator {
  void* context;
  void* (*alloc)(void* context, size_t size);
  void (*free)(void* context, void* memory, size_t size);
};

// Addresses of the memory reserved for the interpreter's arenas; it is given out up to `next`.
struct Arenas {
  uintptr_t begin;
  uintptr_t next;
  uintptr_t end;
  ArenaAllocator usual;
};

}  // namespace stepcoder
