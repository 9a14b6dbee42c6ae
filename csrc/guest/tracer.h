// Records on the board which lines of the program run.
//
// The reference is sys.settrace: a line counts if a 'line' event names it in a code object that was
// compiled from the program's source. Python 3.12 and later use sys.monitoring, whose LINE events
// are disabled after the first hit; 3.11 uses probes in the bytecode that do the same (probes.h and
// tracer_311.cpp).
#pragma once

#include <Python.h>

#include <cstdint>

namespace stepcoder::tracer {

// Derives the keys of lines 0 to `lines` - 1 from the judge's secret (wire/line_seal.h).
void take_keys(uint64_t secret, uint64_t lines);

// Sets the bitmap that lines are recorded in, and its seal: bit n is line n. Lines without a key
// are dropped.
void set_bitmap(uint8_t* bitmap, uint64_t* seal);

// Records a line; for this folder's tracers.
void note(int64_t line);

// Marks the run as one that has tampered with its lines, which it cannot take back.
void break_seal();

// Traces a code object that has not run yet, and the code in its constants, in this thread and
// those started later. Returns what to run in its place (a new reference); nullptr: a Python error
// is set.
PyObject* start(PyObject* code);

// After a warm-up run: lets start() be called again. A process traces one code object.
void forget();

// Makes every line report once more, for the next bitmap.
bool restart();

// False if the program has removed the tracer.
bool intact();

// In the worker: prepares what children need. False: a Python error is set.
bool prepare();

}  // namespace stepcoder::tracer
