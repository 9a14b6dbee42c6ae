// Notes which lines of the program run, on the board.
//
// The reference is sys.settrace: a line counts if a 'line' event names it in a code object that was
// compiled from the program's source. 3.11 uses the interpreter's C trace hook; from 3.12 on
// sys.monitoring, whose LINE events switch themselves off after the first hit.
#pragma once

#include <Python.h>

#include <cstdint>

namespace stepcoder::tracer {

// Where lines are noted: bit n of the bitmap is line n; higher lines are dropped.
void set_bitmap(uint8_t* bitmap, uint64_t bytes);

// Traces code whose co_filename is this very object, in this thread and those started later.
// Returns false with a Python error set.
bool start(PyObject* code, PyObject* filename);

// Makes every line report again, for the next bitmap.
bool restart();

// False if the program took the tracer away.
bool intact();

// Called in the fork server: prepares what children need. Returns false with a Python error set.
bool prepare();

}  // namespace stepcoder::tracer
