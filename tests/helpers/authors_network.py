"""The authors' network, rebuilt from its description with plain torch modules. Test code only.

VGG-19 without batch norm in both streams; the global one whole, two 1x1 convolutions to 1024 with
ReLU, average pooling, a linear classifier; the local one without its last pooling, average pooling,
the vector repeated T times through a two-layer LSTM, a linear scorer, softmax over the steps, a
linear classifier. The names are those of its published state dict.
"""

import torch
from torch import nn

VGG19 = (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M")
AUTHORS_PARAMETERS = 46_134_289


def vgg19_features(last_pool):
    layers, channels = [], 3
    for item in VGG19:
        if item == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU(inplace=True)]
            channels = item
    return nn.Sequential(*(layers if last_pool else layers[:-1]))


class TemporalAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.att_len = nn.Linear(512, 1)

    def forward(self, outputs):
        alphas = torch.softmax(self.att_len(outputs).squeeze(2), dim=1)
        return torch.bmm(alphas.unsqueeze(1), outputs).squeeze(1)


class AuthorsNetwork(nn.Module):
    def __init__(self, num_classes=200, num_steps=10):
        super().__init__()
        self.num_steps = num_steps
        self.img_features = vgg19_features(last_pool=True)
        self.patch_features = vgg19_features(last_pool=False)
        self.add_on = nn.Sequential(
            nn.Conv2d(512, 1024, 1), nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU()
        )
        self.img_classifier = nn.Linear(1024, num_classes)
        self.lstm = nn.LSTM(512, 512, 2, batch_first=True)
        self.attention = TemporalAttention()
        self.fc = nn.Linear(512, num_classes)

    def forward(self, images, patches):
        whole = self.add_on(self.img_features(images)).mean((2, 3))
        part = self.patch_features(patches).mean((2, 3))
        outputs, _ = self.lstm(part.unsqueeze(1).repeat(1, self.num_steps, 1))
        return self.img_classifier(whole), self.fc(self.attention(outputs))
