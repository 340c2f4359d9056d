"""A network that goes into a folder or a repository, and comes out of one that nobody trusts."""

import inspect
import json
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin
from safetensors.torch import save_model

from recurrent_attention._files import make_folder, whole_file
from recurrent_attention.hub import card
from recurrent_attention.hub.config import CONFIG_NAME, as_json, config_of, read_config
from recurrent_attention.hub.config_checks import checked_config
from recurrent_attention.hub.loading import find_file, merged_settings, news_of_classifiers
from recurrent_attention.hub.names import canonical_names, unwrapped
from recurrent_attention.hub.skeleton import build_skeleton, fill, new_classifiers
from recurrent_attention.hub.weights import WEIGHTS_NAME, fitting_weights, read_weights
from recurrent_attention.network import TwoStreamNetwork


class HubNetwork(
    TwoStreamNetwork,
    PyTorchModelHubMixin,
    library_name="recurrent-attention",
    tags=["image-classification", "fine-grained"],
    license="mit",
    pipeline_tag="image-classification",
    paper_url="https://arxiv.org/abs/2005.10979",
    model_card_template=card.TEMPLATE,
):
    """A `TwoStreamNetwork` with what the Hugging Face Hub's users know: save, load, push."""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of `TwoStreamClassifier` that build the model as it is now, portable.

        Arguments that name weights are left out; the normalisation is included.
        """
        return config_of(self)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write model.safetensors, config.json and a model card into a folder.

        The configuration rebuilds the model without pretrained weights and without the folder or
        repository that a backbone came from, so that loading downloads nothing. All files are
        written under temporary names and renamed at the end: if that fails, or the process is
        killed, each file there is whole, the old or the new one. A model card that is there already
        stays. Weights are saved in the dtype that they have.

        Args:
            save_directory: is made if it is not there.
            config: another configuration, a dictionary or dataclass; default: the model's own.
            repo_id: where to push to; default: the folder's name.
            push_to_hub: push the model to the Hub as well, with the card that the folder has.
            model_card_kwargs: variables of the card's template (`hub.card.TEMPLATE`): `repo_id`,
                what to load it by, and `notes`, Markdown about data and accuracy; or `text`, the
                whole card, instead of the template.
            **push_to_hub_kwargs: arguments of `push_to_hub`.

        Returns:
            The address of the commit, if the model was pushed.

        Raises:
            ValueError: if an argument of a backbone cannot be written as JSON.
            OSError: if the folder cannot be made, or a file not be written, say on a full disk.

        Warns:
            UserWarning: if `from_pretrained` would not trust an argument of the model.
        """
        folder = Path(save_directory)
        config = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
        settings = as_json(config or self.config)
        if config is None:
            try:
                checked_config(json.loads(settings), folder / CONFIG_NAME)
            except ValueError as error:
                warnings.warn(f"from_pretrained will refuse what is saved: {error}", stacklevel=2)
        variables = {"repo_id": folder.resolve().name} | (model_card_kwargs or {})
        described = str(self.generate_model_card(**variables))
        make_folder(folder)
        with ExitStack() as files:  # they get their names when all are written, the weights last
            weights_path, config_path, card_path = (
                files.enter_context(whole_file(folder / name))
                for name in (WEIGHTS_NAME, CONFIG_NAME, card.NAME)
            )
            config_path.write_text(settings, encoding="utf-8")
            if (folder / card.NAME).exists():
                card_path.write_bytes((folder / card.NAME).read_bytes())
                text = card_path.read_text(encoding="utf-8", errors="replace")
            else:
                card_path.write_text(described, encoding="utf-8", errors="backslashreplace")
                text = None
            save_model(self, str(weights_path))
            weights_path.chmod(config_path.stat().st_mode)  # safetensors hides it from other users
        if not push_to_hub:
            return None
        return self.push_to_hub(
            repo_id or folder.resolve().name,
            config=config,
            model_card_kwargs=model_card_kwargs if text is None else {"text": text},
            **push_to_hub_kwargs,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> str:
        """Write the model into a repository on the Hub, which is made if it is not there.

        A model card that is there already stays, unless `model_card_kwargs` are given.

        Args:
            repo_id: "name", or "user/name".
            token: for the Hub; default: the one that is logged in.
            private: whether a new repository is.
            model_card_kwargs: as in `save_pretrained`.
            **kwargs: further arguments of `huggingface_hub.ModelHubMixin.push_to_hub`: `branch`,
                `create_pr`, `commit_message` and more.

        Returns:
            The address of the commit.

        Raises:
            OSError: of huggingface_hub, if the Hub does not take it.
        """
        if "/" not in repo_id:  # the card shows how to load it, and for that needs the whole name
            repo_id = (
                HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
            )
        if model_card_kwargs is None and card.is_there(repo_id, token, kwargs.get("branch")):
            ignored = kwargs.get("ignore_patterns") or []
            ignored = [ignored] if isinstance(ignored, str) else list(ignored)
            kwargs["ignore_patterns"] = [*ignored, card.NAME]
        return super().push_to_hub(
            repo_id,
            token=token,
            private=private,
            model_card_kwargs={"repo_id": repo_id} | (model_card_kwargs or {}),
            **kwargs,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        **overrides: Any,
    ) -> Self:
        """Load a model that `save_pretrained` or `push_to_hub` wrote; in eval mode.

        The folder may be a stranger's: nothing in it is run, no other file is read, no host but the
        Hub is asked (and that only for a repository), and nothing huge is built. ImageNet weights
        are never loaded. The random state stays as it is, unless classifiers are new: those are
        drawn from it.

        Args:
            pretrained_model_name_or_path: a folder with config.json and model.safetensors, or the
                name of a repository on the Hub.
            force_download: download again what is in the cache.
            token: for the Hub; True takes the one that is logged in.
            cache_dir: where downloads are kept.
            local_files_only: take a repository from the cache only.
            revision: a branch, tag or commit of the repository.
            map_location: the device.
            strict: refuse a file with missing or additional weights. With False the missing ones
                are initialised as in a new model.
            **overrides: arguments of the class that replace the saved ones. With another number of
                classes (`num_classes`, `class_names`) both classifiers, and nothing else, are
                initialised as in a new model, with a warning. `backbone_kwargs` keeps the saved
                mean, std and interpolation unless it has a `pretrained_cfg_overlay`.

        Returns:
            The model.

        Raises:
            FileNotFoundError: if there is no such folder or repository, or one of the files is
                missing.
            ValueError: if one of the files is damaged, hostile, or does not fit the other or the
                overrides.
            TypeError: if an override is no argument of the class.
            OSError: of huggingface_hub, if a download fails.

        Example:
            >>> import tempfile
            >>> from recurrent_attention import TwoStreamClassifier
            >>> model = TwoStreamClassifier("test_resnet", 5, image_size=64, patch_size=32)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = model.save_pretrained(folder)
            ...     TwoStreamClassifier.from_pretrained(folder, num_patches=4).num_classes
            5
        """
        arguments = inspect.signature(cls).parameters
        any_name = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
        for name in overrides:
            if name not in arguments and not any_name:  # a subclass may hand on what it gets
                raise TypeError(f"Expected an argument of {cls.__name__}, but got `{name}`.")
        if overrides.pop("pretrained", False):
            raise ValueError("Expected `pretrained` to be False: all weights come from the folder.")
        device = torch.device(map_location)
        find = partial(
            find_file,
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        config_path, weights_path = find(CONFIG_NAME), find(WEIGHTS_NAME)
        if overrides.get("class_names") is not None:
            overrides.setdefault("num_classes", len(overrides["class_names"]))
        settings = merged_settings(read_config(config_path, overrides), overrides)
        weights = read_weights(weights_path)
        with torch.inference_mode(False), torch.no_grad():
            skeleton = build_skeleton(cls, settings, weights, config_path)
            fitting, other_classes = fitting_weights(
                weights,
                skeleton.state_dict(),
                weights_path,
                strict=strict,
                other_classes="num_classes" in overrides,
            )
            if other_classes:
                fitting |= new_classifiers(skeleton)
            model = fill(skeleton, fitting, cls, settings, config_path).to(device).eval()
        if other_classes:
            if "temperatures" not in overrides:
                model.temperatures = None  # those of the classifiers that are gone
            warnings.warn(news_of_classifiers(model, other_classes, weights_path), stacklevel=2)
        return model

    def generate_model_card(
        self, *args: Any, repo_id: str = "my-model", text: str | None = None, **kwargs: Any
    ) -> ModelCard:
        """Build the model card.

        Args:
            *args: as in `huggingface_hub.ModelHubMixin`, which takes none.
            repo_id: the folder or repository to load it from.
            text: the whole card; None fills the template.
            **kwargs: further variables of `hub.card.TEMPLATE`, such as `notes`.
        """
        if text is not None:
            return ModelCard(text, ignore_metadata_errors=True)
        variables = card.variables_of(self, self.config, repo_id) | kwargs
        return super().generate_model_card(*args, **variables)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights saved from this class, or from the authors' network, wrapped or not.

        Args:
            state_dict: names may begin with `module.`, `_orig_mod.` or the attribute that held the
                model, or be the authors' (for `backbone="vgg19", global_head="conv"`).
            strict: as in `torch.nn.Module.load_state_dict`.
            assign: as in `torch.nn.Module.load_state_dict`.

        Returns:
            The missing and unexpected names, as torch does.
        """
        weights = unwrapped(canonical_names(state_dict), self.state_dict())
        return super().load_state_dict(weights, strict=strict, assign=assign)
