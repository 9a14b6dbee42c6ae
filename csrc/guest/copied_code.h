// Notices code of the program that was not made by compiling its source: copies by code.replace()
// or marshal, and code that it compiles under its own file name.
#pragma once

#include <Python.h>

namespace stepcoder::copied_code {

// Calls `found` whenever code with this file name is about to be made. False: a Python error is
// set.
bool watch(PyObject* filename, void (*found)());

// Stops watching.
void forget();

// True if a code object's file name is the program's. Compared by value, since code from marshal
// has a string of its own.
bool is_program_filename(PyObject* filename);

// True if the program has made code under another file name. It may be a copy of its own code,
// whose lines would then be missed.
bool made_foreign_code();

}  // namespace stepcoder::copied_code
