// Isolates the worker process, once, by every layer that the machine permits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stepcoder {

// What a worker's children run: Python in this process, machine code, or the compiler of that.
enum class Guest { kPython, kNative, kCompiler };

struct IsolationConfig {
  std::vector<std::string> readable;  // folders and files that programs may read
  std::vector<std::string> hidden;    // files and folders within those that they may not read
  std::string scratch;                // the working folder of a run, the only one it may write to
  uint64_t scratch_bytes = 0;
  uint32_t own_uid = 0;  // the user to become where the judge runs as root
  Guest guest = Guest::kPython;
};

struct Isolation {
  uint32_t missing_layers = 0;  // bit set of Layer
  bool has(uint32_t layer) const { return (missing_layers & layer) == 0; }
};

// Reports a layer that the machine refuses; throws std::system_error if a layer is left half done.
Isolation isolate(const IsolationConfig& config);

// For a child of the worker: gives up the capabilities that its user namespace gave it, or that it
// still has because it could not stop being root.
void drop_capabilities();

}  // namespace stepcoder
