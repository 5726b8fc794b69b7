#include "server/transports/http/codec.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>

#include <array>
#include <string>
#include <utility>

#include "server/core/status_macros.h"
#include "server/transports/http/http_error.h"

namespace millrace {
namespace {

const std::array<const Codec*, 3>& Codecs() {
  static const std::array<const Codec*, 3> codecs = {&RawCodec(), &NpyCodec(), &JsonCodec()};
  return codecs;
}

// "Text/Plain; charset=utf-8" is "text/plain".
std::string MediaType(absl::string_view text) {
  const absl::string_view type = text.substr(0, text.find(';'));
  return absl::AsciiStrToLower(absl::StripAsciiWhitespace(type));
}

std::string MediaTypes() {
  std::string all;
  for (const Codec* codec : Codecs()) {
    absl::StrAppend(&all, all.empty() ? "" : ", ", codec->media_type());
  }
  return all;
}

// The q of one element of Accept; 1 where there is none, 0 where it cannot be read.
double Quality(absl::string_view element) {
  for (absl::string_view parameter : absl::StrSplit(element, ';')) {
    parameter = absl::StripAsciiWhitespace(parameter);
    if (!absl::StartsWithIgnoreCase(parameter, "q=")) continue;
    double quality = 0;
    return absl::SimpleAtod(parameter.substr(2), &quality) ? quality : 0;
  }
  return 1;
}

// How closely a media range matches: 0 not at all, 1 "*/*", 2 "application/*", 3 by name.
int Closeness(absl::string_view range, const Codec& codec) {
  if (range == codec.media_type()) return 3;
  if (range == "application/*") return 2;
  return range == "*/*" ? 1 : 0;
}

// How much the client wants the form: the q of the closest range.
double Preference(absl::string_view accept, const Codec& codec) {
  int closest = 0;
  double preference = 0;
  for (absl::string_view element : absl::StrSplit(accept, ',')) {
    const int closeness = Closeness(MediaType(element), codec);
    if (closeness <= closest) continue;
    closest = closeness;
    preference = Quality(element);
  }
  return preference;
}

}  // namespace

absl::StatusOr<const Codec*> ChooseReader(absl::string_view content_type) {
  const std::string type = MediaType(content_type);
  for (const Codec* codec : Codecs()) {
    if (codec->Reads(type)) return codec;
  }
  return HttpError(415, absl::StatusCode::kInvalidArgument,
                   absl::StrCat("Content-Type ", Printable(content_type),
                                " is not understood; send one of ", MediaTypes()));
}

absl::StatusOr<const Codec*> ChooseWriter(absl::string_view accept, const Codec& form) {
  if (absl::StripAsciiWhitespace(accept).empty()) return &form;
  const Codec* best = &form;
  double preference = Preference(accept, form);
  for (const Codec* codec : Codecs()) {
    const double wanted = Preference(accept, *codec);
    if (wanted > preference) {
      best = codec;
      preference = wanted;
    }
  }
  if (preference > 0) return best;
  return HttpError(406, absl::StatusCode::kInvalidArgument,
                   absl::StrCat("none of the types in Accept (", Printable(accept),
                                ") can be written; accept one of ", MediaTypes()));
}

absl::Status CheckOutputs(const Codec& writer, size_t outputs) {
  if (outputs == 1 || &writer == &JsonCodec()) return absl::OkStatus();
  return HttpError(406, absl::StatusCode::kInvalidArgument,
                   absl::StrCat(writer.media_type(), " holds one tensor and the model has ",
                                outputs, " outputs; ask with \"Accept: application/json\""));
}

}  // namespace millrace
