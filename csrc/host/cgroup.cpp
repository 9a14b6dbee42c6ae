// See cgroup.h. The files: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
#include "host/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "wire/fd.h"
#include "wire/protocol.h"

namespace stepcoder {
namespace {

namespace fs = std::filesystem;

// Names begin with it; then come the judge's process id, when that process began, and a count.
constexpr std::string_view kPrefix = "stepcoder-";

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool write_file(const std::string& path, const std::string& text) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

bool has_word(const std::string& text, std::string_view word, char separator) {
  std::istringstream words(text);
  for (std::string found; std::getline(words, found, separator);)
    if (found == word || found == std::string(word) + '\n') return true;
  return false;
}

// When the process began, in ticks since the machine did; "" if there is no such process.
std::string start_of(const std::string& pid) {
  const std::string stat = text_of("/proc/" + pid + "/stat");
  // The name in parentheses may hold anything.
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream fields(stat.substr(name_end + 1));
  std::string field;
  for (int number = 3; number <= 22; ++number) fields >> field;
  return field;
}

// This process's folder in the hierarchy of `controller`, "" for version 2; nothing where the
// hierarchy is not mounted or shows another part of the machine.
std::optional<fs::path> own_folder(const std::string& cgroups, const std::string& mounts,
                                   std::string_view controller) {
  std::string path;
  std::istringstream groups(cgroups);
  for (std::string line; std::getline(groups, line);) {  // 4:memory:/a/b, or 0::/a/b
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? controllers.empty() : has_word(controllers, controller, ','))
      path = line.substr(second + 1);
  }
  if (path.empty()) return std::nullopt;
  std::istringstream lines(mounts);
  for (std::string line; std::getline(lines, line);) {
    // 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line.substr(0, dash));
    std::istringstream after(line.substr(dash + 3));
    std::string skipped, root, target, type, options;
    before >> skipped >> skipped >> skipped >> root >> target;
    after >> type >> skipped >> options;
    const bool right = controller.empty() ? type == "cgroup2"
                                          : type == "cgroup" && has_word(options, controller, ',');
    if (!right) continue;
    if (path == "/" && root == "/") return fs::path(target);
    if (root == "/") return fs::path(target + path);
    if (path == root) return fs::path(target);
    if (path.starts_with(root + "/")) return fs::path(target + path.substr(root.size()));
  }
  return std::nullopt;
}

bool is_writable(const fs::path& folder) { return access(folder.c_str(), W_OK) == 0; }

bool gives_controllers(const fs::path& folder) {
  const std::string given = text_of(folder / "cgroup.subtree_control");
  return has_word(given, "memory", ' ') && has_word(given, "pids", ' ');
}

// True if a process that leaves this group escapes no limit that someone has set.
bool is_unlimited(const fs::path& folder) {
  for (const char* file : {"memory.max", "memory.high", "cpu.max"}) {
    const std::string limit = text_of(folder / file);
    if (!limit.empty() && !limit.starts_with("max")) return false;
  }
  return text_of(folder / "cpuset.cpus").find_first_not_of(" \n") == std::string::npos;
}

// Version 2: a group with processes of its own cannot give controllers to groups below it, unless
// it is the machine's root. Workers then go beside this process's group rather than below it, and
// only if they escape no limit by that.
std::string version2_parent(const fs::path& own, std::string* why) {
  const std::string name = own.string();
  if (is_writable(own) && (gives_controllers(own) ||
                           write_file((own / "cgroup.subtree_control").string(), "+memory +pids")))
    return name;
  const fs::path parent = own.parent_path();
  if (!fs::exists(parent / "cgroup.subtree_control") || !gives_controllers(parent))
    *why = "neither " + name + " nor its parent gives groups the memory and pids controllers";
  else if (!is_writable(parent))
    *why = parent.string() + " is not writable";
  else if (!is_unlimited(own))
    *why = name + " has limits, which groups beside it would not be under";
  else
    return parent.string();
  return "";
}

uint64_t number_in(const std::string& path) {
  return std::strtoull(text_of(path).c_str(), nullptr, 10);
}

}  // namespace

CgroupParent find_cgroup_parent(const std::string& cgroups, const std::string& mounts) {
  CgroupParent parent;
  // A machine with both versions has the controllers in one of them; version 1 shows in which.
  if (const auto memory = own_folder(cgroups, mounts, "memory")) {
    if (!is_writable(*memory)) {
      parent.missing = memory->string() + " is not writable";
      return parent;
    }
    parent.version = 1;
    parent.memory = memory->string();
    const auto pids = own_folder(cgroups, mounts, "pids");
    if (pids && is_writable(*pids)) parent.pids = pids->string();
    return parent;
  }
  const auto own = own_folder(cgroups, mounts, "");
  if (!own) {
    parent.missing = "no cgroup hierarchy with the memory controller is mounted";
    return parent;
  }
  parent.memory = parent.pids = version2_parent(*own, &parent.missing);
  parent.version = parent.memory.empty() ? 0 : 2;
  return parent;
}

CgroupParent find_cgroup_parent() {
  return find_cgroup_parent(text_of("/proc/self/cgroup"), text_of("/proc/self/mountinfo"));
}

int remove_leftovers(const CgroupParent& parent) {
  int removed = 0;
  for (const std::string& folder : {parent.memory, parent.pids}) {
    if (folder.empty()) continue;
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::string name = entry->path().filename();
      if (!name.starts_with(kPrefix)) continue;
      std::istringstream parts(name.substr(kPrefix.size()));
      std::string pid, start;
      if (!std::getline(parts, pid, '-') || !std::getline(parts, start, '-')) continue;
      // Groups of judges in other pid namespaces are safe: the kernel keeps a group with processes.
      if (start_of(pid) != start && rmdir(entry->path().c_str()) == 0) ++removed;
    }
  }
  return removed;
}

Cgroup::Cgroup(const CgroupParent& parent) {
  if (parent.version == 0) return;
  static std::atomic<uint64_t> count{0};
  const std::string name = std::string(kPrefix) + std::to_string(getpid()) + "-" +
                           start_of("self") + "-" + std::to_string(count++);
  version_ = parent.version;
  owner_ = getpid();
  memory_ = parent.memory + "/" + name;
  if (mkdir(memory_.c_str(), 0755) != 0) {
    memory_.clear();
    return;
  }
  if (!parent.pids.empty()) pids_ = parent.pids + "/" + name;
  if (version_ == 1 && !pids_.empty() && mkdir(pids_.c_str(), 0755) != 0) pids_.clear();
}

Cgroup& Cgroup::operator=(Cgroup&& other) noexcept {
  if (this == &other) return *this;
  remove();
  version_ = other.version_;
  owner_ = other.owner_;
  memory_ = std::exchange(other.memory_, {});
  pids_ = std::exchange(other.pids_, {});
  own_bytes_ = other.own_bytes_;
  limit_bytes_ = other.limit_bytes_;
  kills_ = other.kills_;
  return *this;
}

bool Cgroup::add(pid_t pid) {
  if (memory_.empty()) return false;
  if (!pids_.empty()) write_file(pids_ + "/pids.max", std::to_string(kMaxTasks));
  // Memory that is swapped out is used all the same.
  if (version_ == 2)
    write_file(memory_ + "/memory.swap.max", "0");
  else
    write_file(memory_ + "/memory.swappiness", "0");
  const std::string number = std::to_string(pid);
  const bool limited = write_file(memory_ + "/cgroup.procs", number);
  if (limited && version_ == 1 && !pids_.empty()) write_file(pids_ + "/cgroup.procs", number);
  if (!limited) remove();
  return limited;
}

void Cgroup::allow_memory(uint64_t bytes) {
  if (memory_.empty()) return;
  if (own_bytes_ == 0)
    own_bytes_ =
        number_in(memory_ + (version_ == 2 ? "/memory.current" : "/memory.usage_in_bytes"));
  // Twice: a run may write to every page that it shares with its worker.
  const uint64_t limit = 2 * own_bytes_ + bytes;
  if (limit == limit_bytes_) return;
  if (write_file(memory_ + (version_ == 2 ? "/memory.max" : "/memory.limit_in_bytes"),
                 std::to_string(limit)))
    limit_bytes_ = limit;
}

bool Cgroup::ran_out_of_memory() {
  if (memory_.empty()) return false;
  std::istringstream events(
      text_of(memory_ + (version_ == 2 ? "/memory.events" : "/memory.oom_control")));
  uint64_t kills = 0;
  std::string name;
  for (uint64_t value = 0; events >> name >> value;)
    if (name == "oom_kill") kills = value;
  return kills > std::exchange(kills_, kills);
}

void Cgroup::remove() {
  const std::string memory = std::exchange(memory_, {});
  const std::string pids = std::exchange(pids_, {});
  if (memory.empty() || owner_ != getpid()) return;
  // A run that is killed with its worker is gone a moment after it.
  constexpr int kTimeoutMs = 500;
  for (const std::string& folder : {memory, version_ == 1 ? pids : std::string()})
    for (int waited = 0;
         !folder.empty() && rmdir(folder.c_str()) != 0 && errno == EBUSY && waited < kTimeoutMs;
         ++waited)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace stepcoder
