// Whitespace-separated tokens, the comparison of stdout.
#pragma once

#include <string_view>

namespace stepcoder {

// True if both texts hold the same tokens in the same order. White space is ASCII's.
inline bool same_tokens(std::string_view left, std::string_view right) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const auto next = [&](std::string_view& text) {
    const size_t start = text.find_first_not_of(kSpace);
    if (start == std::string_view::npos) return text = {};
    text.remove_prefix(start);
    const std::string_view token = text.substr(0, text.find_first_of(kSpace));
    text.remove_prefix(token.size());
    return token;
  };
  while (true) {
    const std::string_view a = next(left);
    const std::string_view b = next(right);
    if (a != b) return false;
    if (a.empty()) return true;
  }
}

}  // namespace stepcoder
