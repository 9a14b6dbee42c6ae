// See landlock.h.
#include "worker/landlock.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "wire/fd.h"

namespace stepcoder {
namespace {

namespace fs = std::filesystem;

constexpr long kCreateRuleset = 444;
constexpr long kAddRule = 445;
constexpr long kRestrictSelf = 446;
constexpr int kVersion = 1;  // LANDLOCK_CREATE_RULESET_VERSION
// Not in every header: renames from one folder to another (version 2), truncating (version 3).
constexpr uint64_t kRefer = 1ULL << 13;
constexpr uint64_t kTruncate = 1ULL << 14;

constexpr uint64_t kRead = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr uint64_t kHandled =
    kRead | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
    LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
    LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
    LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;

void add_rule(const UniqueFd& ruleset, const UniqueFd& file, uint64_t access) {
  const landlock_path_beneath_attr rule{access, file.get()};
  checked(syscall(kAddRule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0), "allow a path");
}

// A rule covers everything below its path. A folder with something hidden in it is therefore
// allowed entry by entry, and may itself only be listed.
void allow(const UniqueFd& ruleset, const fs::path& path, const std::vector<fs::path>& hidden,
           uint64_t execute) {
  if (std::find(hidden.begin(), hidden.end(), path) != hidden.end()) return;
  const UniqueFd file(open(path.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW));
  struct stat info{};
  if (!file || fstat(file.get(), &info) != 0 || S_ISLNK(info.st_mode)) return;
  const bool has_hidden = std::any_of(hidden.begin(), hidden.end(), [&](const fs::path& inner) {
    return inner.native().starts_with(path.native() + "/");
  });
  add_rule(ruleset, file,
           has_hidden              ? LANDLOCK_ACCESS_FS_READ_DIR
           : S_ISDIR(info.st_mode) ? kRead | execute
                                   : LANDLOCK_ACCESS_FS_READ_FILE | execute);
  if (!has_hidden) return;
  std::error_code error;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error))
    allow(ruleset, entry->path(), hidden, execute);
}

}  // namespace

bool allow_files(const std::vector<std::string>& readable, const std::vector<std::string>& hidden,
                 const std::string& scratch, bool executable) {
  const long version = syscall(kCreateRuleset, nullptr, 0, kVersion);
  // Version 1 refuses every rename from one folder to another, in scratch too.
  if (version < (scratch.empty() ? 1 : 2)) return false;
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs =
      kHandled | (version >= 2 ? kRefer : 0) | (version >= 3 ? kTruncate : 0);
  const UniqueFd ruleset(
      static_cast<int>(syscall(kCreateRuleset, &attributes, sizeof attributes, 0)));
  if (!ruleset) return false;
  std::error_code error;
  std::vector<fs::path> hidden_paths;
  for (const std::string& path : hidden) hidden_paths.push_back(fs::canonical(path, error));
  for (const std::string& path : readable) {
    const fs::path real = fs::canonical(path, error);
    if (!error) allow(ruleset, real, hidden_paths, executable ? LANDLOCK_ACCESS_FS_EXECUTE : 0);
  }
  if (!scratch.empty()) {
    const UniqueFd folder(checked(open(scratch.c_str(), O_PATH | O_CLOEXEC), "open scratch"));
    add_rule(ruleset, folder,
             attributes.handled_access_fs &
                 ~uint64_t{LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
                           LANDLOCK_ACCESS_FS_MAKE_BLOCK});
  }
  checked(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  return syscall(kRestrictSelf, ruleset.get(), 0) == 0;
}

}  // namespace stepcoder
