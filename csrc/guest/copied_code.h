// Notices code that was not made by compiling the program's source: copies of its code by
// code.replace() or marshal, whose lines count too, and code that the program makes up itself,
// under its own file name or with instructions of its own. Lines of that are worth nothing: the
// program has tampered.
#pragma once

#include <Python.h>

namespace stepcoder::copied_code {

// Calls `found` whenever a copy of the program's code is about to be made. `code` is the program's,
// and outlives the watch. False: a Python error is set.
bool watch(PyObject* code, void (*found)());

// Stops watching.
void forget();

// True if a code object's file name is the program's. Compared by value, since code from marshal
// has a string of its own.
bool is_program_filename(PyObject* filename);

}  // namespace stepcoder::copied_code
