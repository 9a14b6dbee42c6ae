// Notes which lines of the program run, on the board.
//
// The reference is sys.settrace: a line counts if a 'line' event names it in a code object that was
// compiled from the program's source. From 3.12 on this is done by sys.monitoring, whose LINE
// events switch themselves off after the first hit; on 3.11 by probes in the bytecode, which do the
// same (see probes.h and tracer_311.cpp).
#pragma once

#include <Python.h>

#include <cstdint>

namespace stepcoder::tracer {

// Where lines are noted: bit n of the bitmap is line n; higher lines are dropped.
void set_bitmap(uint8_t* bitmap, uint64_t bytes);

// Notes a line; for this folder's tracers.
void note(int64_t line);

// Traces a code object that has not run yet, and the code in it, in this thread and those started
// later. Returns what to run in its place (a new reference), or nullptr with a Python error set.
PyObject* start(PyObject* code);

// After a rehearsal: forgets what start() was given. It takes one code object in a process.
void forget();

// Makes every line report again, for the next bitmap.
bool restart();

// False if the program took the tracer away.
bool intact();

// Called in the fork server: prepares what children need. Returns false with a Python error set.
bool prepare();

}  // namespace stepcoder::tracer
