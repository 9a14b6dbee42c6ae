// Puts the memory that children share with their worker on huge pages. A fork then copies, and an
// exit frees, one page table entry for 2 MiB instead of 512, and the interpreter's code is never
// faulted in.
//
// Best effort: without huge pages from the kernel everything stays as it was.
#pragma once

#include <vector>

#include "worker/prefault.h"

namespace stepcoder::huge_pages {

// Moves the code of the interpreter and its libraries. Call it once all modules are loaded and
// while /proc is still visible.
void move_code();

// Collapses the interpreter's objects (worker/preload/arena_preload.cpp placed them together) and
// the C heap. Call it last.
void collapse_data();

// Where the interpreter's objects and data segments lie, and the C heap.
const std::vector<AddressRange>& data_ranges();

}  // namespace stepcoder::huge_pages
