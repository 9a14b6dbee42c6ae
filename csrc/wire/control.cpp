// See control.h.
#include "wire/control.h"

#include <sys/socket.h>

#include <cstring>

namespace stepcoder {

bool send_control(int socket, ControlMessage message, int channel, int binary) {
  message.has_channel = channel >= 0;
  message.has_binary = binary >= 0;
  int sent[2];
  size_t count = 0;
  for (const int fd : {channel, binary})
    if (fd >= 0) sent[count++] = fd;
  iovec part{&message, sizeof message};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof sent)]{};
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  if (count > 0) {
    packet.msg_control = ancillary;
    packet.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&packet);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(rights), sent, count * sizeof(int));
  }
  return sendmsg(socket, &packet, MSG_NOSIGNAL) == sizeof message;
}

std::optional<Received> receive_control(int socket) {
  Received received;
  iovec part{&received.message, sizeof received.message};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(2 * sizeof(int))];
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  packet.msg_control = ancillary;
  packet.msg_controllen = sizeof ancillary;
  const ssize_t got = recvmsg(socket, &packet, MSG_CMSG_CLOEXEC);
  if (got != static_cast<ssize_t>(sizeof received.message)) return std::nullopt;
  for (cmsghdr* header = CMSG_FIRSTHDR(&packet); header != nullptr;
       header = CMSG_NXTHDR(&packet, header))
    if (header->cmsg_type == SCM_RIGHTS) {
      const int* fd = reinterpret_cast<int*>(CMSG_DATA(header));
      if (received.message.has_channel != 0) received.channel = UniqueFd(*fd++);
      if (received.message.has_binary != 0) received.binary = UniqueFd(*fd);
    }
  return received;
}

}  // namespace stepcoder
