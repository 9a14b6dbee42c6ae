// Notices code that comes to be in other ways than by compiling the program, yet is the program's:
// copies by code.replace() or marshal, and what it compiles under its own file name.
#pragma once

#include <Python.h>

namespace stepcoder::copied_code {

// Calls `found` when code with this file name is about to be made. False: a Python error is set.
bool watch(PyObject* filename, void (*found)());

// Ends that.
void forget();

// Whether a code object's file name is the program's: by value, as those who use settrace compare
// it, since code from marshal has a name of its own.
bool is_the_programs(PyObject* filename);

// True if the program made code under another name: perhaps its own, which settrace's users would
// then overlook.
bool renamed();

}  // namespace stepcoder::copied_code
