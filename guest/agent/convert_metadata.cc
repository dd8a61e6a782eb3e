// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/convert_metadata.h"

namespace mayfly::guest {
namespace {

// Field numbers of proto/agent.proto; convert_test compares them with what protoc makes of it.
constexpr uint32_t kOffer = 60, kAnswer = 61, kOfferIsThere = 1, kRequest = 60;
struct RequestField {
  static constexpr uint32_t kId = 1, kTokenTtlS = 2, kPath = 3, kToken = 4, kWantsJson = 5,
                            kOffset = 6;
};
struct AnswerField {
  static constexpr uint32_t kId = 1, kStatus = 2, kContent = 3, kTotalBytes = 4, kVersion = 5,
                            kIsJson = 6;
};

Result<HostMessage> parse_offer(std::span<const std::byte> message) {
  MetadataOffer offer;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (field->number == kOfferIsThere && !field->is_bytes) offer.is_there = field->value != 0;
  }
  return offer;
}

Result<> add_number(MetadataAnswer& answer, const WireField& field) {
  constexpr auto kLastStatus = static_cast<uint32_t>(MetadataAnswer::Status::kBusy);
  switch (field.number) {
    case AnswerField::kId:
      answer.id = TRY(field.u32());
      break;
    case AnswerField::kStatus: {
      const uint32_t status = TRY(field.u32());
      if (status == 0 || status > kLastStatus) {
        return fail({Code::kInvalidArgument, "METADATA_STATUS"},
                    "metadata_answer.status: %u is not 1 to %u", status, kLastStatus);
      }
      answer.status = static_cast<MetadataAnswer::Status>(status);
      break;
    }
    case AnswerField::kTotalBytes:
      answer.total_bytes = TRY(field.u32());
      break;
    case AnswerField::kVersion:
      answer.version = field.value;
      break;
    case AnswerField::kIsJson:
      answer.is_json = field.value != 0;
      break;
  }
  return {};
}

Result<HostMessage> parse_answer(std::span<const std::byte> message) {
  MetadataAnswer answer;
  WireReader reader(message);
  while (const auto field = TRY(reader.next())) {
    if (!field->is_bytes) {
      TRY(add_number(answer, *field));
    } else if (field->number == AnswerField::kContent) {
      answer.content = field->text();
    }
  }
  if (answer.content.size() > kMaxMetadataPiece || answer.total_bytes > kMaxMetadataBytes) {
    return fail({Code::kInvalidArgument, "METADATA_SIZE"},
                "metadata_answer: %zu bytes of %u are above the limits of %zu and %zu",
                answer.content.size(), answer.total_bytes, kMaxMetadataPiece, kMaxMetadataBytes);
  }
  return answer;
}

}  // namespace

bool is_metadata_field(uint32_t number) { return number == kOffer || number == kAnswer; }

Result<HostMessage> parse_metadata(const WireField& field) {
  return field.number == kOffer ? parse_offer(field.bytes) : parse_answer(field.bytes);
}

void add_metadata_request(SendQueue& queue, const MetadataRequest& request) {
  WireWriter out;
  out.number(RequestField::kId, request.id);
  out.number(RequestField::kTokenTtlS, request.token_ttl_s);
  out.text(RequestField::kPath, request.path);
  out.text(RequestField::kToken, request.token);
  out.number(RequestField::kWantsJson, request.wants_json ? 1 : 0);
  out.number(RequestField::kOffset, request.offset);
  WireWriter message;
  message.message(kRequest, out);
  queue.add_frame(message.bytes());
}

}  // namespace mayfly::guest
