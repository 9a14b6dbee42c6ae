// Puts what every child shares with its worker on huge pages. A fork copies, and an exit frees, one
// page table entry for 2 MiB instead of 512, and the interpreter's code is never faulted in.
//
// Best effort: where the kernel gives no huge pages everything stays as it was.
#pragma once

#include <vector>

#include "worker/prefault.h"

namespace stepcoder::huge_pages {

// Once all is loaded, while /proc is in sight: the code of the interpreter and its libraries.
void move_code();

// Last: the interpreter's objects (which worker/preload/arena_preload.cpp has brought together) and
// the C heap.
void collapse_data();

// Where the interpreter's objects and variables lie, and the C heap.
const std::vector<touch::Range>& variables();

}  // namespace stepcoder::huge_pages
