// The panels that every view has, in their order. own: those of the view that come after the list of edits.

import { editsPanel, pythonPanel } from "./edits_panel.js";
import { attentionPanel, lensPanel } from "./look_panels.js";
import { networkPanel } from "./network_panel.js";
import { weightsPanel } from "./weights_panel.js";

export const commonPanels = (app, ...own) => [
  editsPanel(app), ...own, networkPanel(app), attentionPanel(app), lensPanel(app), weightsPanel(app), pythonPanel(app),
];
