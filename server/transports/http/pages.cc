#include "server/transports/http/pages.h"

#include <absl/container/flat_hash_set.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <string>
#include <vector>

#include "server/core/status_macros.h"
#include "server/transports/http/json_text.h"

namespace millrace {
namespace {

Answer TextAnswer(int status, absl::string_view text) {
  return {.status = status, .content_type = "text/plain", .text = std::string(text)};
}

Answer ReadyPage(const Engine& engine) {
  if (!engine.ready()) return TextAnswer(503, "draining\n");
  for (const Model* model : engine.registry().List()) {
    if (!model->ready())
      return TextAnswer(503, absl::StrCat("model ", model->spec().name, " is not ready\n"));
  }
  return TextAnswer(200, "ready\n");
}

// {"models": ["NAME", ...]}, as KServe V1 has it.
Answer ModelsPage(const Registry& registry) {
  std::string text = "{\"models\": [";
  absl::flat_hash_set<absl::string_view> seen;
  for (const Model* model : registry.List()) {
    if (!seen.insert(model->spec().name).second) continue;
    if (seen.size() > 1) text += ", ";
    AppendJsonString(model->spec().name, text);
  }
  text += "]}\n";
  return JsonAnswer(std::move(text));
}

// [{"name": "image", "dtype": "float32", "shape": [-1, 2500]}, ...]; null for any.
void AppendTensorSpecs(const std::vector<TensorSpec>& specs, std::string& out) {
  absl::string_view separator = "";
  out += "[";
  for (const TensorSpec& spec : specs) {
    absl::StrAppend(&out, separator, "{\"name\": ");
    AppendJsonString(spec.name, out);
    const bool any_type = spec.dtype == DType::kUnspecified;
    absl::StrAppend(
        &out, ", \"dtype\": ", any_type ? "null" : absl::StrCat("\"", Name(spec.dtype), "\""),
        ", \"shape\": ",
        spec.any_shape ? "null" : absl::StrCat("[", absl::StrJoin(spec.shape, ", "), "]"), "}");
    separator = ", ";
  }
  out += "]";
}

absl::StatusOr<Answer> ModelPage(const Route& route, const Engine& engine) {
  ASSIGN_OR_RETURN(const Model* model, engine.registry().Find(route.model, route.version));
  const ModelSpec& spec = model->spec();
  std::string text = "{\"name\": ";
  AppendJsonString(spec.name, text);
  text += ", \"version\": ";
  AppendJsonString(spec.version, text);
  absl::StrAppend(&text, ", \"ready\": ", engine.ready() && model->ready() ? "true" : "false",
                  ", \"inputs\": ");
  AppendTensorSpecs(spec.inputs, text);
  text += ", \"outputs\": ";
  AppendTensorSpecs(spec.outputs, text);
  text += "}\n";
  return JsonAnswer(std::move(text));
}

}  // namespace

absl::StatusOr<Answer> GetPage(const Route& route, const Engine& engine) {
  switch (route.page) {
    case Page::kHealth:
      return TextAnswer(200, "ok\n");
    case Page::kReady:
      return ReadyPage(engine);
    case Page::kModels:
      return ModelsPage(engine.registry());
    case Page::kModel:
      return ModelPage(route, engine);
    case Page::kPredict:
      break;
  }
  return absl::InternalError("no such page");
}

}  // namespace millrace
